"""Several requests at once: each gets the tokens that it gets alone, whoever comes and goes."""

import gc
import threading
import time
import weakref
from functools import partial

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.errors import RequestError
from k2mlx.generate.engine import Engine
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.prefix import PrefixStore
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.sequence import Sequence
from tests.generate.conftest import load_decided

load = partial(load_decided, 3)


@pytest.fixture(scope="module")
def alone():
    with Engine(load, reuse=False, streams=1) as engine:
        yield engine


@pytest.fixture(scope="module", params=[False, True], ids=["fresh", "prefix store"])
def together(request):
    with Engine(load, chunk=16, reuse=request.param, streams=5) as engine:
        yield engine


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


requests = st.lists(
    st.tuples(
        st.lists(st.integers(20, 250), min_size=1, max_size=60),
        st.integers(1, 25),
        st.sampled_from([0.0, 0.0, 0.7, 1.3]),
        st.integers(0, 3),  # steps to wait before it comes
    ),
    min_size=1,
    max_size=9,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests, st.integers(0, 1000))
def test_each_gets_what_it_gets_alone(alone, together, requests, seed):
    """Prompts of all lengths, greedy and sampled, more of them than run at once."""
    running = []
    for i, (prompt, count, temperature, pause) in enumerate(requests):
        sampling = Sampling(temperature=temperature, max_tokens=count, seed=seed + i)
        running.append((prompt, sampling, together.submit(prompt, sampling, stop_ids=())))
        for _ in range(pause):
            next(running[0][2], None)
    results = [list(generation) for _, _, generation in running[1:]]
    list(running[0][2])
    for (prompt, sampling, generation), got in zip(running[1:], results, strict=True):
        assert got == list(alone.submit(prompt, sampling, stop_ids=()))
        assert generation.stats.finish_reason == "length"
        assert generation.stats.completion_tokens == sampling.max_tokens == len(got)


def test_one_stops_is_cancelled_or_fails_and_the_others_go_on(alone):
    prompts = [[30 + i, 40, 50 + i] for i in range(4)]
    long = Sampling(temperature=0, max_tokens=60)
    wanted = [list(alone.submit(p, long, stop_ids=())) for p in prompts]
    with Engine(load, streams=4) as engine:

        def fail(done, total):
            raise ValueError("a callback of the reader's")

        stopping = engine.submit(prompts[0], long, stop_ids=(wanted[0][9],))
        cancelled = engine.submit(prompts[1], long, stop_ids=())
        going_on = engine.submit(prompts[2], long, stop_ids=())
        failing = engine.submit(prompts[3], long, fail, stop_ids=())
        assert [next(cancelled) for _ in range(3)] == wanted[1][:3]
        cancelled.cancel()
        with pytest.raises(ValueError, match="a callback"):
            list(failing)
        first = wanted[0].index(wanted[0][9])
        assert list(stopping) == wanted[0][:first]
        assert list(going_on) == wanted[2]
        wait_for(lambda: cancelled.done)
        assert cancelled.stats.finish_reason == "cancelled"
        assert stopping.stats.finish_reason == "stop"


def test_readers_that_are_gone_leave_nothing_behind():
    with Engine(load, reuse=False, streams=8) as engine:
        list(engine.submit([30], Sampling(max_tokens=2)))
        scheduler = engine._worker._scheduler
        forever = Sampling(temperature=0, max_tokens=400)
        held = [engine.submit([30 + i] * 40, forever, stop_ids=()) for i in range(6)]
        for generation in held:
            next(generation)
        lane = scheduler._lanes[0]
        assert lane._batch is not None
        del held, generation
        wait_for(lambda: scheduler.idle)
        assert lane._batch is None


def test_what_a_batch_leaves_in_the_store_takes_no_more_than_the_store_says():
    """Not the batch's slots too, from which its rows are copied."""
    with Engine(load, streams=8, prefix=PrefixSettings(memory=10**9)) as engine:
        list(engine.submit([20], Sampling(max_tokens=1)))
        scheduler = engine._worker._scheduler

        def run(begin):
            prompts = [[begin, 30 + i] * 60 for i in range(8)]
            lengths = [Sampling(max_tokens=20 + 8 * i) for i in range(8)]
            running = list(map(engine.submit, prompts, lengths))
            assert all(list(generation) for generation in running)
            wait_for(lambda: scheduler.idle)

        def unaccounted():
            gc.collect()
            return mx.get_active_memory() - engine.prefix_figures["bytes"]

        run(20)
        before, kept = unaccounted(), engine.prefix_figures["bytes"]
        for begin in range(21, 24):
            run(begin)
        assert engine.prefix_figures["bytes"] >= 3 * kept > 0
        assert unaccounted() - before < kept / 8  # one request's rows


def test_a_short_prompt_overtakes_a_long_one_and_answers_go_on():
    with Engine(load, chunk=8, reuse=False, streams=4) as engine:
        order, lock = [], threading.Lock()

        def note(name):
            def on_progress(done, total):
                with lock:
                    order.append((name, done))

            return on_progress

        answering = engine.submit([33] * 4, Sampling(temperature=0, max_tokens=300), stop_ids=())
        next(answering)
        long = engine.submit([34] * 400, Sampling(max_tokens=4), note("long"), stop_ids=())
        short = engine.submit([35] * 20, Sampling(max_tokens=4), note("short"), stop_ids=())
        list(short)
        assert ("long", 400) not in order
        assert order.index(("short", 20)) < len(order)
        produced = answering.stats.completion_tokens
        list(long)
        assert answering.stats.completion_tokens > produced  # between the chunks of the long prompt
        answering.cancel()


def test_more_than_fit_wait_and_one_that_never_fits_is_refused():
    with Engine(load, reuse=False, streams=8) as engine:
        assert engine.info  # it is there
        row = engine._worker.room.row
    # Two of 100 tokens: 4 x 256 rows and a third of 512 while a layer grows, 1195. Three: 1792.
    with Engine(load, reuse=False, streams=8, memory=1200 * row) as engine:
        most = []
        running = [engine.submit([40 + i] * 60, Sampling(max_tokens=40)) for i in range(5)]
        scheduler = engine._worker._scheduler
        while not all(g.done for g in running):
            most.append(len(scheduler._decoding) + len(scheduler._filling))
        assert 1 <= max(most) <= 2
        assert all(len(list(g)) == g.stats.completion_tokens for g in running)
    with Engine(load, reuse=False, streams=8, memory=500 * row) as engine:
        with pytest.raises(RequestError, match=r"room for 256 tokens; lower max_tokens"):
            engine.submit([40] * 200, Sampling(max_tokens=57))
        engine.submit([40] * 200, Sampling(max_tokens=56)).cancel()


@pytest.mark.parametrize("early", [0, 5], ids=["at once", "while it answers"])
def test_a_beginning_that_requests_share_is_computed_once(alone, early, monkeypatch):
    """Also when they come together, and when the first still runs."""
    computed = []
    prefill = Sequence.prefill

    def noted(self, count, **more):
        before = self.filled
        prefill(self, count, **more)
        computed.append(self.filled - before)

    monkeypatch.setattr(Sequence, "prefill", noted)
    system = [20 + 7 * i % 200 for i in range(300)]
    sampling = Sampling(temperature=0, max_tokens=60)
    prompts = [[*system, 30 + i, 40 + i] for i in range(4)]
    with Engine(load, chunk=32, streams=4) as engine:
        first = engine.submit(prompts[0], sampling, stop_ids=())
        said = [next(first) for _ in range(early)]
        others = [engine.submit(p, sampling, stop_ids=()) for p in prompts[1:]]
        answers = [said + list(first), *(list(g) for g in others)]
    assert sum(computed) == 301 + 3  # each then has a token of its own, and its last is not filled
    assert [g.stats.cached_tokens for g in others] == [300] * 3
    monkeypatch.setattr(Sequence, "prefill", prefill)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer == list(alone.submit(prompt, sampling, stop_ids=()))


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("at", [8, 20], ids=["while its prompt is computed", "at its first token"])
def test_a_callback_that_exits_ends_its_own_request(alone, streams, at):
    """It is no Exception; the reader of a request that the scheduler lost would wait for ever."""

    def leave(done, total):
        if done == at:
            raise SystemExit("a callback of the reader's")

    sampling = Sampling(temperature=0, max_tokens=40)
    with Engine(load, chunk=8, streams=streams) as engine:
        other = engine.submit([33] * 20, sampling, stop_ids=())
        leaving = engine.submit([34] * 20, sampling, leave, stop_ids=())
        wait_for(lambda: leaving.done)
        with pytest.raises(SystemExit, match="a callback"):
            list(leaving)
        assert list(other) == list(alone.submit([33] * 20, sampling, stop_ids=()))


@pytest.mark.parametrize("at", [8, 20], ids=["while its prompt is computed", "at its first token"])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_failed_request_keeps_neither_its_reader_nor_the_model(streams, at):
    """An error's traceback leads to the frames that it came through, and they to everything."""
    engine = Engine(load, chunk=8, streams=streams, reuse=False)
    assert engine.info
    model = weakref.ref(engine._worker._scheduler._runner.model)

    def fail(done, total):
        if done == at:
            raise ValueError("a callback of the reader's")

    other = engine.submit([33] * 20, Sampling(max_tokens=40), stop_ids=())
    generation = engine.submit([34] * 20, Sampling(max_tokens=40), fail, stop_ids=())
    with pytest.raises(ValueError, match="a callback") as failed:
        list(generation)
    assert "in fail" in failed.value.__notes__[0]
    list(other)
    engine.close()
    gc.collect()
    assert model() is None  # while we still have the error
    reader = weakref.ref(generation)
    del generation, failed
    gc.collect()
    assert reader() is None


@pytest.mark.parametrize(("method", "said"), [("keep", "kept"), ("save_some", "saved")])
def test_a_store_that_fails_costs_nobody_an_answer(alone, method, said, monkeypatch, capsys):
    """Nor the engine: the device may be out of memory just when rows are to be kept."""

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PrefixStore, method, fail)
    sampling = Sampling(temperature=0, max_tokens=30)
    with Engine(load, streams=3) as engine:
        cancelled, *others = [engine.submit([30 + i, 40], sampling, stop_ids=()) for i in range(3)]
        next(cancelled)
        cancelled.cancel()
        for i, generation in enumerate(others, start=1):
            assert list(generation) == list(alone.submit([30 + i, 40], sampling, stop_ids=()))
            assert generation.stats.finish_reason == "length"
        wait_for(lambda: cancelled.done)
    assert cancelled.stats.finish_reason == "cancelled"
    assert f"not {said} (RuntimeError('out of memory'))" in capsys.readouterr().err


def test_several_answers_of_one_token_to_prompts_of_one(alone):
    """They are over before there is a batch."""
    once = Sampling(temperature=0, max_tokens=1)
    wanted = [list(alone.submit([30 + i], once, stop_ids=())) for i in range(4)]
    with Engine(load, reuse=False, streams=4) as engine:
        answers = [engine.submit([30 + i], once, stop_ids=()) for i in range(4)]
        assert [list(answer) for answer in answers] == wanted

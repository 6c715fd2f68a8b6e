"""Engines over several ranks: everyone gets the tokens that one machine gives, in any mix."""

from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.generate.engine import Engine
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.sampling import Sampling
from k2mlx.load import Loaded
from k2mlx.weights.load import save_model
from tests.generate.conftest import load_decided
from tests.parallel.company import company

LAYERS = 5
SPLITS = [[2, 3], [4, 1], [1, 1, 3], [2, 1, 1, 1], [1] * 5]
load = partial(load_decided, LAYERS)


@pytest.fixture(scope="module")
def alone():
    with Engine(load, reuse=False, streams=1) as engine:
        yield engine


@pytest.fixture(scope="module", params=SPLITS, ids=str)
def together(request):
    speculate = request.param == [1, 1, 3]
    with company(load, request.param, chunk=16, streams=6, speculate=speculate) as engine:
        yield engine


requests = st.lists(
    st.tuples(
        st.lists(st.integers(20, 250), min_size=1, max_size=60),
        st.integers(1, 25),
        st.sampled_from([0.0, 0.0, 0.7]),
        st.integers(0, 3),  # tokens of the first to wait for before it comes
        st.sampled_from(["read", "read", "cancel", "fail", "abandon"]),
    ),
    min_size=1,
    max_size=9,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(requests, st.integers(0, 1000), st.booleans())
def test_each_gets_what_it_gets_on_one_machine(alone, together, requests, seed, share):
    """Prompts shorter and longer than a chunk, with a beginning in common or without, greedy and
    sampled; some are cancelled, fail or are forgotten."""

    def fail(done, total):
        if done == total:
            raise ValueError("a callback of the reader's")

    running = []
    for i, (prompt, count, temperature, pause, fate) in enumerate(requests):
        prompt = [*range(20, 20 + 40 * share), *prompt]
        sampling = Sampling(temperature=temperature, max_tokens=count, seed=seed + i)
        progress = fail if fate == "fail" else None
        generation = together.submit(prompt, sampling, progress, stop_ids=())
        if fate == "abandon":
            continue
        running.append((prompt, sampling, fate, generation))
        if fate == "cancel":
            next(generation, None)
            generation.cancel()
        for _ in range(pause if running[0][2] == "read" else 0):
            next(running[0][3], None)
    first = running[:1] if running and running[0][2] == "read" else []
    for _, _, _, generation in first:
        list(generation)
    for prompt, sampling, fate, generation in running[len(first) :]:
        if fate == "fail":
            with pytest.raises(ValueError, match="a callback"):
                list(generation)
            continue
        got = list(generation)
        if fate == "read":
            assert got == list(alone.submit(prompt, sampling, stop_ids=()))
            assert generation.stats.finish_reason == "length"


def test_a_conversation_goes_on_from_its_cache(alone, together):
    prompt = list(range(20, 120))
    greedy = Sampling(temperature=0, max_tokens=12)
    for turn in range(4):
        generation = together.submit(prompt, greedy, stop_ids=())
        said = list(generation)
        assert said == list(alone.submit(prompt, greedy, stop_ids=()))
        if turn:
            assert generation.stats.cached_tokens == len(prompt) - 6
        prompt = [*prompt, *said, 30, 31, 32, 33, 34]


@pytest.mark.parametrize("counts", [[2, 3], [1, 1, 3]], ids=str)
def test_what_was_read_is_read_from_every_ranks_disk_after_a_restart(alone, counts, tmp_path):
    prompt = [20 + 7 * i % 200 for i in range(400)]
    greedy = Sampling(temperature=0, max_tokens=8)
    wanted = list(alone.submit(prompt, greedy, stop_ids=()))
    kept = PrefixSettings(disk=1 << 30, folder=tmp_path)
    model = tmp_path / "model"
    save_model(model, load().model)

    def load_there():
        loaded = load()
        return Loaded(loaded.model, loaded.tokenizer, loaded.config, model, loaded.bytes)

    for turn in range(2):
        with company(load_there, counts, chunk=64, prefix=kept) as engine:
            generation = engine.submit(prompt, greedy, stop_ids=())
            assert list(generation) == wanted
            assert generation.stats.disk_tokens == (256 if turn else 0)
    # A rank that has lost its blocks makes all compute again, and none hang.
    blocks = sorted(tmp_path.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    blocks[0].unlink()
    with company(load_there, counts, chunk=64, prefix=kept) as engine:
        generation = engine.submit(prompt, greedy, stop_ids=())
        assert list(generation) == wanted
        assert generation.stats.disk_tokens == 0


def test_a_prompt_cancelled_between_two_chunks_leaves_nothing_on_the_wire(alone):
    """The next chunk was promised, and receiving it had begun."""
    greedy = Sampling(temperature=0, max_tokens=9)
    with company(load, [2, 3], chunk=16) as engine:
        for stop in (16, 48, 96):
            started = []

            def on_progress(done, total, stop=stop, started=started):
                if done >= stop and started:  # the first chunk may be done before submit returns
                    started[0].cancel()

            started.append(engine.submit([40] * 200, greedy, on_progress, stop_ids=()))
            list(started[0])
            assert started[0].stats.finish_reason == "cancelled"
            again = engine.submit([50 + stop] * 9, greedy, stop_ids=())
            assert list(again) == list(alone.submit([50 + stop] * 9, greedy, stop_ids=()))


def test_the_weights_that_are_told_are_those_of_all_ranks(alone, together):
    assert together.info.parameters == alone.info.parameters
    size = together._worker._group.size
    assert together.info.bytes == size * alone.info.bytes  # each rank said 12,345

"""The engine: the right tokens in order, on one thread, and nothing that can hang a reader."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.errors import CheckpointError, K2Error, RequestError
from k2mlx.generate.engine import Engine
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.scheduler import Scheduler
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.tokenizer import ByteTokenizer

GREEDY = Sampling(temperature=0, max_tokens=6)
CONTEXT = 256
IM_END = ByteTokenizer().special["<|im_end|>"]

many_examples = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def expected(scripted, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(scripted.following(tokens))
    return tokens[len(prompt) :]


# Tokens


@given(length=st.integers(1, 60), chunk=st.integers(1, 20), count=st.integers(1, 8))
@many_examples
def test_any_chunking_gives_the_models_tokens(make_engine, scripted, length, chunk, count):
    model = scripted()
    engine = make_engine(model, chunk=chunk)
    prompt = [20 + 7 * i % 200 for i in range(length)]
    generation = engine.submit(prompt, Sampling(temperature=0, max_tokens=count))
    assert list(generation) == expected(scripted, prompt, count)
    assert generation.stats.finish_reason == "length"
    # The head runs for single tokens only; all but the prompt's last are prefilled in chunks.
    assert model.calls == [1] * count
    assert sum(model.prefills) == length - 1
    assert all(n == chunk for n in model.prefills[:-1])


def test_a_real_model_gives_what_full_forward_passes_give(config, make_engine):
    tiny = config(num_hidden_layers=3)

    def load():
        mx.random.seed(1)
        model = Model(tiny)
        model.reset(seed=3)
        model.update({"lm_head": {"weight": model.lm_head.weight * 20}})
        mx.eval(model.parameters())
        return Loaded(model, ByteTokenizer(), tiny, Path("tiny"), 12345)

    prompt = [20 + 11 * i % 240 for i in range(37)]
    found = []

    def naive():
        model, tokens = load().model, list(prompt)
        for _ in range(12):
            logits = model(mx.array([tokens]))[0, -1]
            tokens.append(int(mx.argmax(logits).item()))
        found.extend(tokens[len(prompt) :])

    thread = threading.Thread(target=naive)
    thread.start()
    thread.join()
    with Engine(load, chunk=10) as engine:
        got = list(engine.submit(prompt, Sampling(temperature=0, max_tokens=12), stop_ids=()))
        assert got == found
        assert engine.info.name == "tiny"
        assert engine.info.context == CONTEXT
        assert engine.info.bytes == 12345
        assert engine.info.device in ("cpu", "gpu")


def test_the_models_end_markers_and_eos_ids_stop_it(make_engine, scripted, config):
    for stop in (IM_END, ByteTokenizer().special["[EOS]"], ByteTokenizer().special["[EOT]"], 99):
        model = scripted(script=[70, 71, stop, 72])
        engine = make_engine(model, config(eos_token_id=(99,)))
        generation = engine.submit([30], GREEDY)
        assert list(generation) == [70, 71]
        assert generation.stats.finish_reason == "stop"
        assert generation.stats.completion_tokens == 2


def test_stop_ids_given_replace_the_models(make_engine, scripted):
    engine = make_engine(scripted(script=[IM_END, 70, 71, 72]))
    generation = engine.submit([30], GREEDY, stop_ids=[71])
    assert list(generation) == [IM_END, 70]


def test_the_answer_ends_where_the_context_ends(make_engine):
    engine = make_engine()
    generation = engine.submit([30] * (CONTEXT - 3), Sampling(temperature=0, max_tokens=100))
    assert len(list(generation)) == 3
    assert generation.stats.finish_reason == "length"


def test_a_seed_gives_the_same_tokens_whatever_else_runs(make_engine):
    engine = make_engine()
    hot = Sampling(temperature=3.0, seed=7, max_tokens=80)
    first = list(engine.submit([30, 31], hot))
    others = [engine.submit([40], Sampling(temperature=2.0, seed=seed)) for seed in (1, 2)]
    assert list(engine.submit([30, 31], hot)) == first
    assert list(engine.submit([30, 31], Sampling(temperature=3.0, seed=8, max_tokens=80))) != first
    unseeded = engine.submit([30, 31], Sampling(temperature=3.0, max_tokens=80))
    tokens = list(unseeded)
    again = Sampling(temperature=3.0, seed=unseeded.stats.seed, max_tokens=80)
    assert list(engine.submit([30, 31], again)) == tokens
    assert [len(list(other)) > 0 for other in others] == [True, True]


def test_the_largest_seed_is_taken(make_engine):
    engine = make_engine()
    assert list(engine.submit([30], Sampling(seed=2**64 - 1, max_tokens=2)))


def test_ids_that_the_tokenizer_lacks_are_not_sampled(make_engine, scripted, config):
    class Short(ByteTokenizer):
        def __init__(self):
            super().__init__()
            self.vocab_size = 60

    engine = make_engine(scripted(), tokenizer=Short())
    tokens = list(engine.submit([20], Sampling(temperature=2.0, max_tokens=50), stop_ids=()))
    assert len(tokens) == 50
    assert max(tokens) < 60
    with pytest.raises(RequestError, match="got token id 60, wanted 0 to 59"):
        engine.submit([60], GREEDY)


# Requests that cannot be served


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([20] * CONTEXT, "prompt has 256 tokens, the context is 256"),
        ([20, -1], "got token id -1, wanted 0 to 272"),
        ([20, 273], "got token id 273, wanted 0 to 272"),
    ],
)
def test_bad_prompts_are_refused_before_queueing(make_engine, scripted, prompt, message):
    model = scripted()
    with pytest.raises(RequestError, match=message):
        make_engine(model).submit(prompt, GREEDY)
    assert not model.calls
    assert not model.prefills


def test_the_longest_prompt_gets_one_token(make_engine):
    assert len(list(make_engine().submit([20] * (CONTEXT - 1), GREEDY))) == 1


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(RequestError, match="chunk: got 0"):
        Engine(lambda: None, chunk=0)


# Queue and cancel


def test_requests_are_served_in_order_on_one_thread(make_engine, scripted):
    model = scripted()
    engine = make_engine(model)
    prompts = [[20 + i, 30] for i in range(5)]
    generations = [engine.submit(prompt, GREEDY) for prompt in prompts]
    ends = []
    threads = []
    for i, generation in enumerate(generations):
        thread = threading.Thread(
            target=lambda g=generation, i=i: ends.append((g.stats.seconds, i, list(g)))
        )
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    for _, i, tokens in ends:
        assert tokens == expected(scripted, prompts[i], 6)
    firsts = [generation.stats.first_token_seconds for generation in generations]
    assert firsts == sorted(firsts)
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_a_queued_request_is_dropped_at_once(make_engine, scripted):
    permits = threading.Semaphore(0)
    model = scripted(permits=permits)
    engine = make_engine(model)
    running = engine.submit([20], GREEDY)
    queued = engine.submit([40], GREEDY)
    queued.cancel()
    assert list(queued) == []  # does not wait for the first
    assert queued.stats.finish_reason == "cancelled"
    permits.release(100)
    assert list(running) == expected(scripted, [20], 6)
    assert len(model.calls) == 6


def test_cancel_takes_effect_after_the_running_step(make_engine, scripted):
    permits = threading.Semaphore(4)
    engine = make_engine(scripted(permits=permits))
    generation = engine.submit([20], Sampling(temperature=0, max_tokens=100))
    assert next(generation) == scripted.following([20])
    generation.cancel()
    permits.release(2)
    rest = list(generation)
    assert len(rest) <= 4
    assert generation.stats.finish_reason == "cancelled"
    permits.release(100)
    assert list(engine.submit([20], GREEDY)) == expected(scripted, [20], 6)


def test_cancel_works_between_chunks_of_the_prompt(make_engine, scripted):
    permits = threading.Semaphore(2)
    model = scripted(permits=permits)
    engine = make_engine(model, chunk=4)
    generation = engine.submit([20] * 100, GREEDY)
    wait_for(lambda: len(model.prefills) == 3)  # the third waits for its permit
    generation.cancel()
    permits.release(1)
    assert list(generation) == []
    assert generation.stats.finish_reason == "cancelled"
    assert model.prefills == [4, 4, 4]
    # What it has computed serves the next request.
    permits.release(100)
    again = engine.submit([20] * 100, GREEDY)
    assert list(again) == expected(scripted, [20] * 100, 6)
    assert again.stats.cached_tokens == 12


def test_a_stream_whose_reader_is_gone_stops(make_engine, scripted):
    model = scripted()
    engine = make_engine(model)
    generation = engine.submit([20], Sampling(temperature=0, max_tokens=200))
    next(generation)
    del generation
    gc.collect()
    assert list(engine.submit([21], GREEDY)) == expected(scripted, [21], 6)


def test_progress_is_reported_chunk_by_chunk(make_engine):
    seen = []
    engine = make_engine(chunk=4)
    list(engine.submit([20] * 11, GREEDY, on_progress=lambda *done: seen.append(done)))
    assert seen == [(4, 11), (8, 11), (10, 11), (11, 11)]


# Failures


def test_an_error_reaches_its_own_reader_and_no_other(make_engine, scripted):
    engine = make_engine(scripted(fail_at=8))
    failing = engine.submit([20, 21, 22, 23], Sampling(temperature=0, max_tokens=20))
    after = engine.submit([30], Sampling(temperature=0, max_tokens=3))
    tokens = []
    with pytest.raises(RuntimeError, match="device failed at 8"):
        tokens.extend(failing)
    wanted = expected(scripted, [20, 21, 22, 23], 8)
    assert tokens == [] or wanted[: len(tokens)] == tokens
    assert failing.stats.finish_reason == "error"
    assert list(after) == expected(scripted, [30], 3)


def test_an_error_in_the_progress_callback_is_the_requests(make_engine, scripted):
    engine = make_engine(chunk=2)

    def broken(done, total):
        raise ZeroDivisionError("broken callback")

    with pytest.raises(ZeroDivisionError):
        list(engine.submit([20] * 9, GREEDY, on_progress=broken))
    assert list(engine.submit([30], GREEDY)) == expected(scripted, [30], 6)


def test_what_loading_raises_is_raised_by_every_use():
    def load():
        raise CheckpointError("nothing there")

    engine = Engine(load)
    for use in (lambda: engine.info, lambda: engine.tokenizer, lambda: engine.submit([1], GREEDY)):
        with pytest.raises(CheckpointError, match="nothing there"):
            use()
    assert not engine.loading
    engine.close()


def test_a_dead_engine_tells_its_readers(make_engine, scripted, monkeypatch):
    permits = threading.Semaphore(0)
    engine = make_engine(scripted(permits=permits))
    running = engine.submit([20], GREEDY)
    waiting = engine.submit([21], GREEDY)
    # Between the requests, so none of theirs.
    monkeypatch.setattr(Scheduler, "unwanted", lambda _: sys.exit("bug"))
    permits.release(100)
    for generation in (running, waiting):
        with pytest.raises(K2Error, match="thread died"):
            list(generation)
    with pytest.raises(K2Error, match="thread died"):
        engine.submit([20], GREEDY)


# The end


def test_close_cancels_what_runs_and_waits(make_engine, scripted):
    permits = threading.Semaphore(3)
    engine = make_engine(scripted(permits=permits))
    running = engine.submit([20], Sampling(temperature=0, max_tokens=100))
    waiting = engine.submit([21], GREEDY)
    next(running)
    closer = threading.Thread(target=engine.close)
    closer.start()
    wait_for(lambda: engine._worker._stopping)
    permits.release(2)
    closer.join(10)
    assert engine._worker.ended.is_set()
    assert len(list(running)) <= 5
    assert list(waiting) == []
    assert {running.stats.finish_reason, waiting.stats.finish_reason} == {"cancelled"}
    with pytest.raises(RequestError, match="closed"):
        engine.submit([20], GREEDY)
    engine.close()


@pytest.mark.parametrize("call", ["synchronize", "clear_cache"])
def test_an_engine_ends_though_mlx_repeats_an_error(make_engine, scripted, monkeypatch, call):
    """As it does in any of its calls after a neighbour in a ring was lost."""
    engine = make_engine(scripted())
    assert list(engine.submit([20], GREEDY))

    def repeat():
        raise RuntimeError("[ring] connection to a peer was lost")

    monkeypatch.setattr(mx, call, repeat)
    engine._worker.stop()
    assert engine._worker.ended.wait(10)


def test_a_dropped_engine_frees_its_model(scripted, config):
    models = []

    def load():
        model = scripted()
        models.append(weakref.ref(model))
        return Loaded(model, ByteTokenizer(), config(), Path("m"), 0)

    engine = Engine(load)
    list(engine.submit([20], GREEDY))
    assert models[0]() is not None
    ended = engine._worker.ended
    del engine, load
    gc.collect()
    assert ended.wait(10)
    gc.collect()
    assert models[0]() is None


def test_engines_one_after_another_share_a_thread(make_engine, scripted):
    seen = set()
    for _ in range(5):
        model = scripted()
        engine = make_engine(model)
        list(engine.submit([20], GREEDY))
        engine.close()
        seen |= model.threads
    assert len(seen) <= 2  # the one before may still be putting its things away


def test_the_process_can_exit_while_the_engine_works():
    program = """
from pathlib import Path
import mlx.core as mx, mlx.nn as nn
from k2mlx.generate.engine import Engine
from k2mlx.generate.sampling import Sampling
from k2mlx.cache import LatentCache
from k2mlx.config import ModelConfig
from k2mlx.load import Loaded
from k2mlx.tokenizer import ByteTokenizer

class Busy(nn.Module):
    def make_cache(self): return [LatentCache()]
    def __call__(self, tokens, cache):
        cache[0].append(mx.zeros((1, tokens.shape[1], 1)))
        x = mx.random.normal((300, 300))
        for _ in range(20): x = (x @ x) * 0.01
        return mx.zeros((1, 1, 273)) + x.sum() * 0

sizes = dict.fromkeys(("vocab_size hidden_size intermediate_size moe_intermediate_size "
    "num_hidden_layers num_attention_heads n_routed_experts num_experts_per_tok q_lora_rank "
    "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim rms_norm_eps rope_theta "
    "routed_scaling_factor").split(), 1)
config = ModelConfig(**(sizes | {"vocab_size": 273, "max_position_embeddings": 100000}))
engine = Engine(lambda: Loaded(Busy(), ByteTokenizer(), config, Path("busy"), 0))
generation = engine.submit([20], Sampling(max_tokens=90000), stop_ids=())
print(next(generation) >= 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_close_from_its_own_callback_does_not_wait_for_itself(make_engine):
    engine = make_engine(chunk=2)
    generation = engine.submit([20] * 9, GREEDY, on_progress=lambda *_: engine.close())
    assert list(generation) == []
    assert generation.stats.finish_reason == "cancelled"


# Cost


def test_stats_add_up(make_engine):
    engine = make_engine(chunk=4)
    generation = engine.submit([20] * 11, GREEDY)
    tokens = list(generation)
    stats = generation.stats
    assert stats.prompt_tokens == 11
    assert stats.completion_tokens == len(tokens) == 6
    assert 0 < stats.prompt_seconds <= stats.first_token_seconds <= stats.seconds
    assert stats.peak_memory > 0
    assert stats.prompt_tokens_per_second > 0
    assert stats.tokens_per_second > 0
    assert generation.done

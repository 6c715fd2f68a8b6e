"""Kept prefixes: the same tokens and logits as without them, and only the new part computed."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.cache import LatentCache
from k2mlx.generate import memory
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.prefix import PrefixStore
from k2mlx.generate.sampling import Sampling
from tests.models import random_model

few = st.lists(st.integers(20, 22), min_size=1, max_size=12)
many_examples = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PLENTY = 10**9


def filled(tokens, layers=2):
    """A cache whose rows say which token and position they belong to."""
    cache = [LatentCache() for _ in range(layers)]
    for number, layer in enumerate(cache):
        rows = [[token, place, number] for place, token in enumerate(tokens)]
        layer.append(mx.array([rows], mx.float32))
    return cache


def held(cache):
    """What `filled` would have been called with."""
    rows = [np.array(layer.export(0, layer.offset)["rows"])[0] for layer in cache]
    for number, layer in enumerate(rows):
        assert (layer[:, 1] == np.arange(len(layer))).all() and (layer[:, 2] == number).all()
    return rows[0][:, 0].astype(int).tolist()


def empty():
    return [LatentCache(), LatentCache()]


def row_bytes(tokens):
    return sum(layer.nbytes for layer in filled([1] * tokens))


def common(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@given(st.lists(st.tuples(few, st.integers(1, 5)), min_size=1, max_size=6))
@many_examples
def test_tokens_are_those_without_kept_prefixes(make_engine, scripted, requests):
    kept, fresh = make_engine(chunk=3), make_engine(chunk=3, reuse=False)
    for prompt, count in requests:
        sampling = Sampling(temperature=0, max_tokens=count)
        assert list(kept.submit(prompt, sampling)) == list(fresh.submit(prompt, sampling))
    assert fresh.submit(prompt, sampling).stats.cached_tokens == 0


@given(st.integers(0, 40), st.lists(few, min_size=2, max_size=8))
@settings(max_examples=25)
def test_logits_are_those_of_a_model_that_starts_from_scratch(seed, runs):
    """Random branches through a random K2: whatever was taken, the next logits are the same."""
    model = random_model(seed)
    store = PrefixStore(PLENTY, model.make_cache)
    for run in runs:
        cache, known, _ = store.take(run)
        cache = cache or model.make_cache()
        logits = model(mx.array([run[known:]]), cache)[:, -1]
        wanted = model(mx.array([run]), model.make_cache())[:, -1]
        np.testing.assert_allclose(np.array(logits), np.array(wanted), atol=1e-5)
        store.keep(run, cache)


@given(st.lists(few, min_size=1, max_size=12), st.integers(0, 5))
def test_the_longest_shared_beginning_is_found(runs, room):
    """Against a list of everything kept; under a budget no more than that."""
    budget = room * row_bytes(1) if room else PLENTY
    store, seen = PrefixStore(budget, empty), []
    for run in runs:
        cache, known, _ = store.take(run)
        best = max((common(old, run[:-1]) for old in seen), default=0)
        assert known == best if not room else known <= best
        assert (held(cache) if cache else []) == run[:known]
        tail = run[known:]
        cache = cache or empty()
        for number, layer in enumerate(cache):
            rows = [[token, known + i, number] for i, token in enumerate(tail)]
            layer.append(mx.array([rows], mx.float32))
        store.keep(run, cache)
        seen.append(run)
        assert store.nbytes <= budget
    assert store.counters.hits + store.counters.misses == len(runs)


def test_a_conversation_that_goes_on_is_moved_and_a_branch_is_copied():
    store, cache = PrefixStore(PLENTY, empty), filled([1, 2, 3])
    store.keep([1, 2, 3], cache)
    branch, known, _ = store.take([1, 2, 9, 9])
    assert (known, branch is cache, len(store)) == (2, False, 1)
    branch[0].append(mx.full((1, 1, 3), 7.0))  # does not reach what it was copied from
    assert held(cache) == [1, 2, 3]
    moved, known, _ = store.take([1, 2, 3, 4])
    assert (known, moved is cache, len(store)) == (3, True, 0)


def test_entries_that_another_goes_on_from_are_one():
    store = PrefixStore(PLENTY, empty)
    for tokens in ([1, 2], [1, 2, 3], [1], [1, 2, 4]):
        store.keep(tokens, filled(tokens))
    assert len(store) == 2
    assert held(store.take([1, 2, 3, 0]).cache) == [1, 2, 3]
    assert held(store.take([1, 2, 4, 0]).cache) == [1, 2, 4]


def test_the_one_not_used_for_longest_goes_first():
    store = PrefixStore(2 * row_bytes(1), empty)
    store.keep([1, 1], filled([1, 1]))
    store.keep([2, 2], filled([2, 2]))
    store.take([1, 9])  # copied: the entry was used
    store.keep([3, 3], filled([3, 3]))
    assert store.counters.evictions == 1
    assert store.take([2, 2]).tokens == 0
    assert store.take([1, 1]).tokens == 1


def test_an_entry_larger_than_the_budget_is_cut_to_it():
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 99, 1000)]
    store = PrefixStore(row_bytes(600), empty)  # 768 positions are allocated for them
    store.keep(tokens, filled(tokens))
    assert 0 < store.nbytes <= store.budget
    cache, known, _ = store.take(tokens)
    assert known == 768
    assert held(cache) == tokens[:768]
    small = PrefixStore(row_bytes(1) - 1, empty)
    small.keep(tokens, filled(tokens))
    assert (len(small), small.nbytes) == (0, 0)


def test_it_gives_way():
    store = PrefixStore(3 * row_bytes(1), empty)
    for token in (1, 2, 3):
        store.keep([token], filled([token]))
    assert store.make_room(row_bytes(1)) == row_bytes(1)
    assert store.make_room(row_bytes(1)) == 0
    assert store.make_room(store.budget) == 2 * row_bytes(1)
    assert (len(store), store.nbytes) == (0, 0)


def test_the_budget_is_a_part_of_the_memory_and_is_told(make_engine, monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert make_engine().info.prefix_memory == 5000 * 1024 // 10
    assert make_engine(reuse=False).info.prefix_memory == 0
    assert make_engine(prefix=PrefixSettings(memory=77)).info.prefix_memory == 77
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert 0 < memory.system_memory() < 2**50
    size = mx.get_active_memory() + 1000
    info = {"max_recommended_working_set_size": size}
    monkeypatch.setattr(memory.mx, "device_info", lambda: info)
    assert memory.free_memory() == 1000


def test_a_shared_system_prompt_is_computed_once(make_engine, scripted):
    model = scripted()
    engine = make_engine(model, chunk=100)
    system = list(range(20, 60))
    sampling = Sampling(temperature=0, max_tokens=1)
    for user in range(4):
        turn = engine.submit([*system, 100 + user, 5], sampling)
        list(turn)
        assert turn.stats.cached_tokens == (len(system) if user else 0)
    again = engine.submit([*system, 101, 5, 6], sampling)  # the second one's conversation goes on
    list(again)
    assert again.stats.cached_tokens == len(system) + 2
    assert (again.stats.disk_tokens, again.stats.prompt_tokens) == (0, len(system) + 3)
    figures = engine.prefix_figures
    assert (figures["hits"], figures["misses"], figures["evictions"]) == (4, 1, 0)
    assert figures["saved"] == 4 * len(system) + 2
    assert (figures["entries"], figures["bytes"] > 0) == (4, True)
    assert make_engine(reuse=False).prefix_figures == {}


def test_the_next_turn_computes_only_what_is_new(make_engine, scripted):
    model = scripted()
    engine = make_engine(model, chunk=100)
    prompt = list(range(20, 60))
    answer = list(engine.submit(prompt, Sampling(temperature=0, max_tokens=5)))
    model.prefills.clear()
    turn = engine.submit(prompt + answer + [70, 71, 72], Sampling(temperature=0, max_tokens=5))
    list(turn)
    # The last token of an answer that met its length was sampled but never fed.
    assert turn.stats.cached_tokens == 44
    assert model.prefills == [3]


def test_the_token_that_ended_the_answer_is_in_the_cache(make_engine, scripted):
    stop = 4
    engine = make_engine(scripted(script=[70, 71, stop, 72]))
    list(engine.submit([30, 31], Sampling(temperature=0)))
    turn = engine.submit([30, 31, 70, 71, stop, 80], Sampling(temperature=0, max_tokens=1))
    list(turn)
    assert turn.stats.cached_tokens == 5


def test_the_same_prompt_again_computes_its_last_token(make_engine, scripted):
    model = scripted()
    engine = make_engine(model)
    sampling = Sampling(temperature=0, max_tokens=1)
    first = list(engine.submit(list(range(20, 40)), sampling))
    model.prefills.clear()
    again = engine.submit(list(range(20, 40)), sampling)
    assert list(again) == first
    assert again.stats.cached_tokens == 19
    assert model.prefills == []


def test_an_error_forgets_the_cache(make_engine, scripted):
    engine = make_engine(scripted(fail_at=8))
    with pytest.raises(RuntimeError):
        list(engine.submit([20] * 4, Sampling(temperature=0, max_tokens=20)))
    after = engine.submit([20] * 4, Sampling(temperature=0, max_tokens=1))
    list(after)
    assert after.stats.cached_tokens == 0


def test_nothing_shared_gives_no_cache():
    store = PrefixStore(PLENTY, empty)
    assert store.take([1, 2]) == (None, 0, 0)
    store.keep([1, 2, 3], filled([1, 2, 3]))
    assert store.take([5, 2, 3]) == (None, 0, 0)
    assert store.take([1]) == (None, 0, 0)
    store.clear()
    assert store.take([1, 2, 3]) == (None, 0, 0)

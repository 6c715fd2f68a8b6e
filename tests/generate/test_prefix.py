"""The kept cache: the same tokens as without it, and only the new part computed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.cache import LatentCache
from k2mlx.generate.prefix import PrefixSlot
from k2mlx.generate.sampling import Sampling

few = st.lists(st.integers(20, 22), min_size=1, max_size=12)
many_examples = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(st.lists(st.tuples(few, st.integers(1, 5)), min_size=1, max_size=6))
@many_examples
def test_tokens_are_those_without_a_kept_cache(make_engine, scripted, requests):
    kept, fresh = make_engine(chunk=3), make_engine(chunk=3, reuse=False)
    for prompt, count in requests:
        sampling = Sampling(temperature=0, max_tokens=count)
        assert list(kept.submit(prompt, sampling)) == list(fresh.submit(prompt, sampling))
    assert fresh.submit(prompt, sampling).stats.cached_tokens == 0


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
    import mlx.core as mx

    slot, cache = PrefixSlot(), [LatentCache()]
    assert slot.take([1, 2]) == (None, 0)
    cache[0].append(mx.zeros((1, 3, 2)))
    slot.keep([1, 2, 3], cache)
    assert slot.take([5, 2, 3]) == (None, 0)
    assert slot.take([1, 2, 3]) == (None, 0)  # taken once

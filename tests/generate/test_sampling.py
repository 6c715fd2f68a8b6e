"""Sampling equals mlx-lm's, filter by filter and token by token; its settings are checked."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import RequestError
from k2mlx.generate.sampling import (
    Sampling,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    log_probabilities,
    sample,
)

VOCABULARY = 97


@pytest.fixture(scope="module")
def mlx_lm():
    return pytest.importorskip("mlx_lm.sample_utils")


def logprobs(seed: int, spread: float = 3.0, rows: int = 3) -> mx.array:
    noise = np.random.default_rng(seed).normal(size=(rows, VOCABULARY)).astype(np.float32)
    return log_probabilities(mx.array(noise * spread))


def same(ours: mx.array, theirs: mx.array) -> None:
    np.testing.assert_array_equal(np.array(ours), np.array(theirs))


seeds = st.integers(0, 2**32 - 1)
spreads = st.floats(0.0, 20.0)


@given(seeds, spreads, st.floats(0.01, 0.999))
def test_top_p_is_mlx_lms(mlx_lm, seed, spread, top_p):
    x = logprobs(seed, spread)
    same(apply_top_p(x, top_p), mlx_lm.apply_top_p(x, top_p))


@given(seeds, spreads, st.floats(0.001, 1.0))
def test_min_p_is_mlx_lms(mlx_lm, seed, spread, min_p):
    x = logprobs(seed, spread)
    same(apply_min_p(x, min_p), mlx_lm.apply_min_p(x, min_p))


@given(seeds, spreads, st.integers(1, VOCABULARY - 1))
def test_top_k_is_mlx_lms(mlx_lm, seed, spread, top_k):
    x = logprobs(seed, spread)
    same(apply_top_k(x, top_k), mlx_lm.apply_top_k(x, top_k))


@given(
    seeds,
    st.floats(0.1, 2.0),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.5),
    st.integers(0, VOCABULARY - 1),
)
def test_tokens_are_mlx_lms(mlx_lm, seed, temperature, top_p, min_p, top_k):
    x = logprobs(seed)
    sampler = mlx_lm.make_sampler(temp=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
    mx.random.seed(seed)
    theirs = sampler(x)
    # mlx's global state gives its first key by splitting the seed's, and uses the second half.
    key = mx.random.split(mx.random.key(seed))[1]
    wanted = Sampling(temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
    same(sample(x, key, wanted), theirs)


@given(seeds, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_sufficient_set(seed, top_p):
    """Against the definition in NumPy float64, away from ties with the threshold."""
    x = np.array(logprobs(seed, rows=1)[0], dtype=np.float64)
    order = np.argsort(-x)
    mass = np.cumsum(np.exp(x[order]))
    if np.abs(mass - top_p).min() < 1e-4:
        return
    wanted = set(order[: int((mass < top_p).sum()) + 1].tolist())
    kept = np.array(apply_top_p(mx.array(x[None].astype(np.float32)), top_p))[0]
    assert set(np.flatnonzero(np.isfinite(kept)).tolist()) >= wanted
    if top_p < 1:
        assert set(np.flatnonzero(np.isfinite(kept)).tolist()) == wanted


@given(seeds, st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.integers(0, 200))
def test_the_likeliest_token_always_stays(seed, top_p, min_p, top_k):
    x = logprobs(seed)
    left = apply_top_k(apply_min_p(apply_top_p(x, top_p), min_p), top_k)
    same(mx.argmax(left, axis=-1), mx.argmax(x, axis=-1))
    assert np.isfinite(np.array(left).max(axis=-1)).all()


def test_filters_that_keep_all_change_nothing():
    x = logprobs(0)
    assert apply_top_p(x, 1.0) is x
    assert apply_min_p(x, 0.0) is x
    assert apply_top_k(x, 0) is x
    assert apply_top_k(x, VOCABULARY) is x
    assert apply_top_k(x, VOCABULARY + 1) is x


def test_temperature_zero_is_argmax_and_needs_no_key():
    x = logprobs(1)
    same(sample(x, None, Sampling(temperature=0)), mx.argmax(x, axis=-1))


def test_a_key_gives_the_same_tokens_whatever_else_was_drawn():
    x, key = logprobs(2), mx.random.key(5)
    first = sample(x, key, Sampling())
    mx.eval(mx.random.normal((100,)))
    same(sample(x, key, Sampling()), first)


def test_frequencies_follow_the_probabilities():
    x = log_probabilities(mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]])))
    many = mx.broadcast_to(x, (20000, 4))
    drawn = np.array(sample(many, mx.random.key(0), Sampling(temperature=1.0)))
    found = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(found, [0.5, 0.3, 0.15, 0.05], atol=0.02)


def test_bfloat16_logits_are_sampled_in_float32():
    x = logprobs(3).astype(mx.bfloat16)
    assert log_probabilities(x).dtype == mx.float32
    same(
        sample(x, mx.random.key(1), Sampling(top_p=0.9)),
        sample(x.astype(mx.float32), mx.random.key(1), Sampling(top_p=0.9)),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature: got -0.1, wanted 0 or more"),
        ({"temperature": math.nan}, "temperature: got nan, wanted 0 or more"),
        ({"temperature": math.inf}, "temperature: got inf, wanted 0 or more"),
        ({"temperature": "hot"}, "temperature: got 'hot', wanted a number"),
        ({"top_p": 0.0}, "top_p: got 0.0, wanted above 0 and at most 1 (1 keeps all)"),
        ({"top_p": 1.01}, "top_p: got 1.01"),
        ({"top_p": math.nan}, "top_p: got nan"),
        ({"top_k": -1}, "top_k: got -1, wanted 0 or more (0 keeps all)"),
        ({"top_k": 1.5}, "top_k: got 1.5, wanted a whole number"),
        ({"min_p": -0.1}, "min_p: got -0.1, wanted from 0 to 1 (0 keeps all)"),
        ({"min_p": 1.1}, "min_p: got 1.1"),
        ({"min_p": math.nan}, "min_p: got nan"),
        ({"max_tokens": 0}, "max_tokens: got 0, wanted 1 or more"),
        ({"max_tokens": True}, "max_tokens: got True, wanted a whole number"),
        ({"seed": -1}, "seed: got -1, wanted from 0 to 2^64 - 1"),
        ({"seed": 2**64}, "seed: got 18446744073709551616"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(RequestError) as caught:
        Sampling(**values)
    assert message in str(caught.value)


def test_the_edges_of_each_range_are_good():
    Sampling(temperature=0, top_p=1.0, top_k=0, min_p=0.0, seed=0, max_tokens=1)
    Sampling(temperature=5.0, top_p=1e-9, top_k=10**9, min_p=1.0, seed=2**64 - 1)

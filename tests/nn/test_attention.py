"""Attention in tiles against NumPy float64, whatever the tiles; and how much memory it takes."""

from dataclasses import replace
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.cache import LatentCache
from k2mlx.model import Model
from k2mlx.nn import attention
from k2mlx.nn.mla import MLA
from tests.models import TINY

sizes = st.integers(1, 6)
budgets = st.sampled_from([1, 3000, 20000, 1 << 26])


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def small_tiles(scores: int, expanded: int, block: int = 8192, align: int = 4):
    return mock.patch.multiple(
        attention, SCORE_BYTES=scores, EXPAND_BYTES=expanded, ROW_BLOCK=block, ALIGN=align
    )


def reference(q, k, v, scale, last):
    """Query l of sequence b sees the keys up to last[b][l]. q [B, H, L, D], k, v [B, H, S, *]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, l in np.ndindex(*q.shape[:3]):
        end = last[b][l] + 1
        scores = k[b, h, :end] @ q[b, h, l] * scale
        weights = np.exp(scores - scores.max())
        out[b, h, l] = weights @ v[b, h, :end] / weights.sum()
    return out


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@settings(max_examples=120)
@given(st.data(), sizes, sizes, st.integers(1, 40), st.integers(0, 60), budgets, budgets)
def test_expanded_attention_is_the_reference_for_any_tiles(data, B, H, L, past, scores, expanded):
    seed, S = data.draw(st.integers(0, 999)), past + L
    D, V, W = (data.draw(st.integers(1, 24)) for _ in range(3))
    q, rows = normal(seed, B, H, L, D), normal(seed + 1, B, S, W)
    w_k, w_v = normal(seed + 2, H, D, W), normal(seed + 3, H, V, W)
    with small_tiles(scores, expanded):
        got = attention.expanded_attention(q, rows, w_k, w_v, 0.1)
    wide = [np.asarray(x, np.float64) for x in (rows, w_k, w_v)]
    k, v = (np.einsum("bsw,hiw->bhsi", wide[0], w) for w in wide[1:])
    wanted = reference(q, k, v, 0.1, [[past + l for l in range(L)]] * B)
    assert relative(got, wanted) <= 1e-4


@settings(max_examples=120)
@given(st.data(), sizes, sizes, st.integers(1, 12), st.integers(0, 60), budgets, st.booleans())
def test_latent_attention_is_the_reference_for_any_tiles(data, B, H, L, past, scores, ragged):
    seed, S = data.draw(st.integers(0, 999)), past + L
    W = data.draw(st.integers(1, 24))
    before = [data.draw(st.integers(0, past)) if ragged else past for _ in range(B)]
    q, rows = normal(seed, B, H, L, W), normal(seed + 1, B, S, W)
    with small_tiles(scores, 1):
        offset = mx.array(before, mx.int32) if ragged else None
        got = attention.latent_attention(q, rows, 0.1, offset)
    keys = np.broadcast_to(np.asarray(rows)[:, None], (B, H, S, W))
    wanted = reference(q, keys, keys, 0.1, [[n + l for l in range(L)] for n in before])
    assert relative(got, wanted) <= 1e-4


@settings(max_examples=60)
@given(st.data(), st.integers(1, 3), st.integers(1, 40), st.integers(0, 60), budgets)
def test_rows_in_8_bits_are_read_in_blocks_to_the_same_effect(data, B, L, past, scores):
    """Against the same attention over the rows that the 8 bits stand for, whole."""
    seed, H, C, R = data.draw(st.integers(0, 999)), 3, 64, 8
    cache = LatentCache(8, C)
    cache.append(normal(seed, B, past + 1, C + R))
    rows = cache.append(normal(seed + 1, B, L, C + R))
    S = past + 1 + L
    whole = rows.expanded(slice(0, S))
    q, w_k, w_v = normal(2, B, H, L, 16), normal(3, H, 16, C + R), normal(4, H, 12, C + R)
    wanted = attention.expanded_attention(q, whole, w_k, w_v, 0.05)
    latent_q = normal(5, B, H, L, C + R)
    wanted_latent = attention.latent_attention(latent_q, whole, 0.05)
    with small_tiles(scores, scores, block=data.draw(st.integers(1, 50))):
        got = attention.expanded_attention(q, rows, w_k, w_v, 0.05)
        got_latent = attention.latent_attention(latent_q, rows, 0.05)
    assert relative(got, wanted) <= 1e-4
    assert relative(got_latent, wanted_latent) <= 1e-4


def test_half_precision_keeps_its_type_and_sums_in_float32():
    """4,000 equal scores: summed in bfloat16, their weights would stop adding up at 256."""
    q, rows = mx.zeros((1, 2, 1, 8), mx.bfloat16), mx.ones((1, 4000, 8), mx.bfloat16)
    got = attention.latent_attention(q, rows, 1.0)
    assert got.dtype == mx.bfloat16
    assert relative(got.astype(mx.float32), np.ones((1, 2, 1, 8))) <= 0.01
    w = mx.ones((2, 8, 8), mx.bfloat16) / 8
    got = attention.expanded_attention(q, rows, w, w, 1.0)
    assert got.dtype == mx.bfloat16
    assert relative(got.astype(mx.float32), np.ones((1, 2, 1, 8))) <= 0.01


@given(st.integers(0, 99), budgets)
@settings(max_examples=20)
def test_gradients_are_those_of_packed_attention(seed, scores):
    """Tiles that wait for one another let gradients through; one segment sees what causal sees."""
    H, L, D, W = 2, 11, 6, 10
    given_ = normal(seed, 1, H, L, D), normal(seed + 1, 1, L, W)
    w_k, w_v = normal(seed + 2, H, D, W), normal(seed + 3, H, 5, W)
    towards = normal(seed + 4, 1, H, L, 5)

    def tiled(q, rows):
        with small_tiles(scores, scores):
            return (attention.expanded_attention(q, rows, w_k, w_v, 0.3) * towards).sum()

    def packed(q, rows):
        k, v = (rows[:, None] @ w.swapaxes(-1, -2) for w in (w_k, w_v))
        segments = mx.zeros((1, L), mx.int32)
        return (attention.packed_attention(q, k, v, 0.3, segments) * towards).sum()

    for a, b in zip(*(mx.grad(f, argnums=(0, 1))(*given_) for f in (tiled, packed)), strict=True):
        assert relative(a, b) <= 1e-4


WIDE = replace(TINY, num_attention_heads=8, kv_lora_rank=32)


def peak_of(run) -> int:
    """Bytes that `run` holds beyond what was there, at most."""
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    mx.synchronize()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("new", [128, 16])
def test_a_chunk_holds_a_few_tiles_at_a_time_at_any_depth(bits, new):
    """Prefill (plain) and a short append (absorbed): scores, keys and values in bounded parts, of
    which a graph of many tiles never holds more than a few. Untiled it would be far more."""
    config = replace(WIDE, kv_lora_rank=64) if bits == 8 else WIDE
    mla, past = MLA(config), 2000
    mx.eval(mla.parameters())
    cache = LatentCache(bits, config.kv_lora_rank)
    width = config.kv_lora_rank + config.qk_rope_head_dim
    cache.append(normal(0, 1, past, width))
    x = normal(1, 1, new, config.hidden_size)
    mx.eval(x, cache.state)
    assert mla.absorbed_is_cheaper(new, past + new) == (new == 16)
    score, expand = 1 << 17, 1 << 18
    with small_tiles(score, expand, block=256):
        peak = peak_of(lambda: mla(x, cache))
    per_head = (past + new) * (config.qk_head_dim + config.v_head_dim) * 4
    expanded = (1 + (bits == 8)) * max(expand, per_head) if new == 128 else 0
    rest = 16 * new * config.num_attention_heads * config.qk_head_dim * 4 + 2 * cache.nbytes
    bound = 5 * score + expanded + rest
    scores = config.num_attention_heads * new * (past + new) * 4
    print(f"{bits=} {new=}: {peak} of {bound} bytes; all scores once: {scores}")
    assert peak <= bound
    assert peak < 2 * scores


def test_short_appends_at_depth_are_absorbed_and_long_ones_expanded():
    """At K2's sizes; the rule's own arithmetic is counted out here by the pair."""
    k2 = replace(
        TINY,
        num_attention_heads=1,
        q_lora_rank=8,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    mla = MLA(k2)
    for depth in (8192, 32768, 131072):
        for new, absorbed in ((1, True), (8, True), (30, True), (128, True), (512, False)):
            assert mla.absorbed_is_cheaper(new, depth + new) == absorbed, (new, depth)
    assert not mla.absorbed_is_cheaper(2048, 2048)


@settings(max_examples=100)
@given(st.integers(1, 60), st.integers(0, 60))
def test_the_rule_counts_multiplications(new, past):
    mla, c = MLA(WIDE), WIDE
    plain = absorbed = 0
    for position in range(past + new):
        plain += (c.kv_lora_rank + c.qk_rope_head_dim) * (c.qk_head_dim + c.v_head_dim)
        if position >= past:
            absorbed += c.kv_lora_rank * (c.qk_nope_head_dim + c.v_head_dim)
            seen = position + 1
            plain += seen * (c.qk_head_dim + c.v_head_dim)
            absorbed += seen * 2 * (c.kv_lora_rank + c.qk_rope_head_dim)
    assert mla.absorbed_is_cheaper(new, past + new) == (absorbed < plain)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), budgets)
def test_the_model_does_not_depend_on_the_tiles(seed, first, second, scores):
    model = Model(TINY)
    model.reset(seed)
    tokens = mx.random.randint(0, 96, (1, first + second), key=mx.random.key(seed))
    with small_tiles(scores, scores):
        cache = model.make_cache()
        mx.eval(model.hidden(tokens[:, :first], cache))
        got = model(tokens[:, first:], cache)
    assert relative(got, model(tokens)[:, first:]) <= 1e-4

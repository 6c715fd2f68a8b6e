"""Causal attention over the rows of a latent cache, in tiles of bounded size.

MLX's fused kernels take K2's head sizes (192, and 576 in the latent space) nowhere on CUDA and on
Metal for a few new tokens only; everywhere else mx.fast.scaled_dot_product_attention holds scores
[heads, new, cached], 2 GB a chunk of 2,048 tokens at 8 k and 34 GB at 128 k. A tile is some heads
and some new tokens against all the rows that they see: whole rows of scores, so that softmax needs
no second pass over the sums, and MLX may still use a fused kernel for a tile where it has one.

Tiles wait for one another through mx.depends, never for the host: MLX would otherwise run as many
at once as it likes and hold all their scores.

Shape letters: B batch, L new tokens, S rows seen so far (the last L are the new tokens'), H heads,
D size of a query and key, V of a value, W width of a row.
"""

from __future__ import annotations

import mlx.core as mx

from ..cache import Rows

# Bytes of one tile's scores. MLX holds about three arrays of this size at once (scores, masked,
# softmax); a tile of 64 MiB already keeps an H100 busy for about 0.2 ms, far above a launch.
SCORE_BYTES = 64 << 20
# Bytes of the keys and values that are expanded at once. More than one head of K2 needs at a depth
# of 128 k (84 MB in bfloat16), so that the peak does not depend on the depth up to there.
EXPAND_BYTES = 96 << 20
# Rows of a quantised cache that are made floating point at once: 9 MB of bfloat16 at K2's width.
ROW_BLOCK = 8192
# Sizes of tiles are multiples of this where they can be: the matmul kernels' own tiles.
ALIGN = 64


def packed_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, segments: mx.array
) -> mx.array:
    """softmax(scale q k^T) v where a token sees earlier tokens of its own segment, for training. q
    and k [B, H, L, D], v [B, H, L, V], segments [B, L] -> [B, H, L, V].

    Scores are made explicitly: the fused kernel's gradient with an array mask fails in bfloat16 on
    CUDA (MLX 0.32.4).
    """
    L = q.shape[2]
    visible = mx.arange(L)[:, None] >= mx.arange(L)
    visible = visible & (segments[:, None, :, None] == segments[:, None, None, :])
    scores = (q * scale) @ k.swapaxes(-1, -2)
    return _softmax(scores, visible) @ v


def expanded_attention(
    q: mx.array, rows: Rows, w_k: mx.array, w_v: mx.array, scale: float
) -> mx.array:
    """Keys w_k r and values w_v r of each head out of the rows r, some heads at a time. q [B, H, L,
    D], rows [B, S, W], w_k [H, D, W], w_v [H, V, W] -> [B, H, L, V]."""
    (B, H, L, _), S = q.shape, rows.shape[1]
    expanded = B * S * (w_k.shape[1] + w_v.shape[1]) * q.dtype.size
    groups = -(-H // min(max(EXPAND_BYTES // expanded, 1), H))
    heads = -(-H // groups)
    tile = _tile(L, B * heads * S * q.dtype.size)
    done: mx.array | None = None
    out = []
    for head in range(0, H, heads):
        group = slice(head, head + heads)
        k = _expand(rows, _after(w_k[group], done))
        v = _expand(rows, _after(w_v[group], done))
        for start in range(0, L, tile):
            stop = min(start + tile, L)
            seen = S - L + stop
            done = mx.fast.scaled_dot_product_attention(
                _after(q[:, group, start:stop], done),
                k[:, :, :seen],
                v[:, :, :seen],
                scale=scale,
                mask="causal" if stop - start > 1 else None,
            )
            out.append(done)
    tiles = -(-L // tile)
    by_group = [_concatenate(out[i : i + tiles], 2) for i in range(0, len(out), tiles)]
    return _concatenate(by_group, 1)


def latent_attention(
    q: mx.array, rows: Rows, scale: float, offset: mx.array | None = None
) -> mx.array:
    """All heads attend to the rows themselves, as keys and as values. q [B, H, L, W], rows [B, S,
    W] -> [B, H, L, W].

    As the key is the same for all heads, heads and new tokens together are the rows of one matrix,
    and the cache is read once. `offset` int32 [B]: sequence b has only offset[b] + L rows.
    """
    (B, H, L, W), S = q.shape, rows.shape[1]
    tile = _tile(L, B * H * S * q.dtype.size, align=1)
    q = q * scale
    out: list[mx.array] = []
    for start in range(0, L, tile):
        stop = min(start + tile, L)
        seen, size = S - L + stop, stop - start
        folded = _after(q[:, :, start:stop], out[-1] if out else None).reshape(B, H * size, W)
        scores = _scores(folded, rows, seen)
        visible = None
        if offset is not None:
            last = offset[:, None] + mx.arange(start, stop)
            visible = mx.arange(seen) <= last[:, None, :, None]
        elif size > 1:
            visible = mx.arange(seen) <= mx.arange(S - L + start, seen)[:, None]
        weights = _softmax(scores.reshape(B, H, size, seen), visible)
        mixed = _mix(weights.reshape(B, H * size, seen), rows, seen)
        out.append(mixed.reshape(B, H, size, W))
    return _concatenate(out, 2)


def _tile(new: int, row_bytes: int, align: int = ALIGN) -> int:
    """How many new tokens a tile has when one costs row_bytes of scores."""
    tile = min(max(SCORE_BYTES // row_bytes, 1), new)
    return tile - tile % align if align < tile < new else tile


def _after(x: mx.array, done: mx.array | None) -> mx.array:
    """x, not to be computed with before `done` is there."""
    return x if done is None else mx.depends(x, done)


def _concatenate(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def _softmax(scores: mx.array, visible: mx.array | None) -> mx.array:
    """Over the last axis, summed in float32, in the scores' type."""
    if visible is not None:
        low = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
        scores = mx.where(visible, scores, low)
    return mx.softmax(scores, axis=-1, precise=True)


def _blocks(rows: Rows, seen: int) -> list[slice]:
    """The parts in which rows are taken: all at once where that is free."""
    size = seen if isinstance(rows, mx.array) else ROW_BLOCK
    return [slice(start, min(start + size, seen)) for start in range(0, seen, size)]


def _block(rows: Rows, block: slice, done: mx.array | None) -> mx.array:
    """Rows as an array; quantised ones not to be expanded before `done` is there."""
    return rows[:, block] if isinstance(rows, mx.array) else rows.expanded(block, done)


def _expand(rows: Rows, w: mx.array) -> mx.array:
    """rows [B, S, W] times each head's w [H, I, W] -> [B, H, S, I]."""
    parts: list[mx.array] = []
    for block in _blocks(rows, rows.shape[1]):
        read = _block(rows, block, parts[-1] if parts else None)
        parts.append(read[:, None] @ w.swapaxes(-1, -2))
    return _concatenate(parts, 2)


def _scores(q: mx.array, rows: Rows, seen: int) -> mx.array:
    """q [B, M, W] times the first `seen` rows -> [B, M, seen]."""
    parts: list[mx.array] = []
    for block in _blocks(rows, seen):
        read = _block(rows, block, parts[-1] if parts else q)
        parts.append(q @ read.swapaxes(-1, -2))
    return _concatenate(parts, 2)


def _mix(weights: mx.array, rows: Rows, seen: int) -> mx.array:
    """weights [B, M, seen] times the rows -> [B, M, W]; blocks are added in float32."""
    first, *others = _blocks(rows, seen)
    total = weights[:, :, first] @ _block(rows, first, weights)
    for block in others:
        part = weights[:, :, block] @ _block(rows, block, total)
        total = total.astype(mx.float32) + part
    return total.astype(weights.dtype)

"""Causal attention over the rows of a latent cache, in tiles of bounded size.

MLX's fused kernels take K2's head sizes (192, and 576 in the latent space) nowhere on CUDA and on
Metal for a few new tokens only; everywhere else mx.fast.scaled_dot_product_attention holds scores
[heads, new, cached], 2 GB a chunk of 2,048 tokens at 8 k and 34 GB at 128 k. A tile is some heads
and some new tokens against all the rows that they see: whole rows of scores, so that softmax is one
pass and nothing has to be put together afterwards, and MLX may still use a kernel of its own for
one. The fused kernel for 128 with the rotary scores as its mask, as mlx-lm does it, was slower in
tiles on an H100 (41 ms against 27 for 8 k, 1,800 against 176 for a chunk at 128 k).

Tiles wait for one another: MLX would otherwise run as many at once as it likes and hold all their
scores.

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
# Rows of a quantised cache that are made floating point at once: 38 MB of bfloat16 at K2's width.
ROW_BLOCK = 32768
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
    return mx.softmax(_masked(scores, visible), axis=-1, precise=True) @ v


def expanded_attention(
    q: mx.array,
    rows: Rows,
    w_k: mx.array,
    w_v: mx.array,
    scale: float,
    wait: bool = False,
) -> mx.array:
    """Keys w_k r and values w_v r of each head out of the rows r, some heads at a time. q [B, H, L,
    D], rows [B, S, W], w_k [H, D, W], w_v [H, V, W] -> [B, H, L, V]. wait: see `_Paced`."""
    (B, H, L, _), S = q.shape, rows.shape[1]
    expanded = B * S * (w_k.shape[1] + w_v.shape[1]) * q.dtype.size
    groups = -(-H // min(max(EXPAND_BYTES // expanded, 1), H))
    heads = -(-H // groups)
    tile = _tile(L, B * heads * S * q.dtype.size)
    paced = _Paced(wait)
    for head in range(0, H, heads):
        group = slice(head, head + heads)
        k, v = (_expand(rows, paced.after(w[group])) for w in (w_k, w_v))
        for start in range(0, L, tile):
            stop = min(start + tile, L)
            seen = S - L + stop
            done = mx.fast.scaled_dot_product_attention(
                paced.after(q[:, group, start:stop]),
                k[:, :, :seen],
                v[:, :, :seen],
                scale=scale,
                mask="causal" if stop - start > 1 else None,
            )
            paced.add(done, last=stop == L and head + heads >= H)
    tiles, out = -(-L // tile), paced.done
    by_group = [_concatenate(out[i : i + tiles], 2) for i in range(0, len(out), tiles)]
    return _concatenate(by_group, 1)


def latent_attention(
    q: mx.array, rows: Rows, scale: float, offset: mx.array | None = None, wait: bool = False
) -> mx.array:
    """All heads attend to the rows themselves, as keys and as values. q [B, H, L, W], rows [B, S,
    W] -> [B, H, L, W].

    As the key is the same for all heads, heads and new tokens together are the rows of one matrix,
    and the cache is read once. `offset` int32 [B]: sequence b has only offset[b] + L rows.
    """
    (B, H, L, W), S = q.shape, rows.shape[1]
    if L == 1 and offset is None and isinstance(rows, mx.array):
        # On an H100 a little faster than folded, but with a mask ten times slower.
        k = rows[:, None]
        return mx.fast.scaled_dot_product_attention(q, k, k, scale=scale)
    tile = _tile(L, B * H * S * q.dtype.size, align=1)
    q = q * scale
    paced = _Paced(wait)
    for start in range(0, L, tile):
        stop = min(start + tile, L)
        seen, size = S - L + stop, stop - start
        folded = paced.after(q[:, :, start:stop]).reshape(B, H * size, W)
        scores = _scores(folded, rows, seen).reshape(B, H, size, seen)
        if offset is not None:
            last = offset[:, None] + mx.arange(start, stop)
            scores = _masked(scores, mx.arange(seen) <= last[:, None, :, None])
        else:
            scores = _causal(scores)
        weights = mx.softmax(scores, axis=-1, precise=True)
        mixed = _mix(weights.reshape(B, H * size, seen), rows, seen)
        paced.add(mixed.reshape(B, H, size, W), last=stop == L)
    return _concatenate(paced.done, 2)


class _Paced:
    """Tiles one after another, of which a device holds two at a time.

    Each waits for the one before it in the graph; that is enough on the CPU. CUDA and Metal give
    memory back only when a batch of operations has ended, so the host, which prepares a tile while
    another is computed, waits there too (`wait`; not inside a transformation such as grad). A
    single tile is left lazy: a token of decode never waits.
    """

    def __init__(self, wait: bool) -> None:
        self.done: list[mx.array] = []
        self._wait = wait

    def after(self, x: mx.array) -> mx.array:
        """x, not to be computed with before the last tile is there."""
        return mx.depends(x, self.done[-1]) if self.done else x

    def add(self, tile: mx.array, last: bool) -> None:
        self.done.append(tile)
        if self._wait and (len(self.done) > 1 or not last):
            mx.async_eval(tile)
            mx.eval(self.done[-2:-1])


def _tile(new: int, row_bytes: int, align: int = ALIGN) -> int:
    """How many new tokens a tile has when one costs row_bytes of scores."""
    tile = min(max(SCORE_BYTES // row_bytes, 1), new)
    return tile - tile % align if align < tile < new else tile


def _concatenate(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def _masked(scores: mx.array, visible: mx.array) -> mx.array:
    """Scores that softmax gives no weight where they are not visible."""
    return mx.where(visible, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))


def _causal(scores: mx.array) -> mx.array:
    """Scores [..., L, S] of the last L of S positions, masked. Only the last L columns hold any
    that are not visible; the others, nearly all, are not touched."""
    L, S = scores.shape[-2:]
    if L > 1:
        seen = mx.arange(L)[:, None] >= mx.arange(L)
        scores[..., S - L :] = _masked(scores[..., S - L :], seen)
    return scores


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

"""Next-token cross entropy, summed with a weight for each token, without holding all logits at
once.

Shape letters: N rows (tokens), H hidden, V vocabulary.
"""

from __future__ import annotations

import mlx.core as mx


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """logits [N, V], targets [N] -> -log softmax(logits)[target] in nats, float32 [N]."""
    logits = logits.astype(mx.float32)
    picked = mx.take_along_axis(logits, targets[:, None], axis=-1).squeeze(-1)
    return mx.logsumexp(logits, axis=-1) - picked


def weighted_loss(
    hidden: mx.array, head: mx.array, targets: mx.array, weights: mx.array, chunk: int = 0
) -> mx.array:
    """sum_i weights_i CE_i: a scalar, not divided by anything, so that micro-batches add up.

    hidden [N, H] after the final norm, head [V, H]: `lm_head.weight`, targets [N], weights [N].
    With `chunk` > 0 the logits of that many rows are made at a time, and made again for the
    gradient; 0 keeps them all.
    """
    rows = hidden.shape[0]
    if not chunk or chunk >= rows:
        return (cross_entropy(hidden @ head.T, targets) * weights).sum()
    total = mx.array(0.0)
    for i in range(0, rows, chunk):
        # Integer arrays are closed over: mx.checkpoint would differentiate by its arguments.
        def part(h: mx.array, w: mx.array, at: slice = slice(i, i + chunk)) -> mx.array:
            return (cross_entropy(h @ w.T, targets[at]) * weights[at]).sum()

        total = total + mx.checkpoint(part)(hidden[i : i + chunk], head)
    return total

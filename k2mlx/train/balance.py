"""Load balancing of the experts without an auxiliary loss (DeepSeek-V3; k2-spec 2).

Each layer's correction bias only decides which experts are chosen. After a step it moves by a fixed
amount towards experts that got less than their share:

    b_i <- b_i + u (sign(mean - load_i) - mean_j sign(mean - load_j))

The last term keeps the mean of the biases where it is; choices do not depend on it.
"""

from __future__ import annotations

import mlx.core as mx


def move_biases(
    biases: dict[str, mx.array], loads: mx.array, rate: mx.array
) -> dict[str, mx.array]:
    """biases: one [E] for each MoE layer, in layer order; loads [layers, E]: pairs each expert got
    in this step, over all its micro-batches; rate: u, a scalar (0 leaves the biases as they
    are)."""
    signs = mx.sign(loads.mean(axis=-1, keepdims=True) - loads)
    moves = rate * (signs - signs.mean(axis=-1, keepdims=True))
    return {name: bias + moves[i] for i, (name, bias) in enumerate(biases.items())}

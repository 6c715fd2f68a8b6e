"""YaRN: the rotary frequencies of K2, stretched for long contexts (arXiv 2309.00071; k2-spec 2).

Pairs are interleaved, (x0, x1), (x2, x3), ...: MLX calls that `traditional`.
"""

from __future__ import annotations

import math

import mlx.core as mx

from ..config import ModelConfig, RopeScaling


def inverse_frequencies(dims: int, base: float, scaling: RopeScaling | None) -> list[float]:
    """Angle per position of each of the dims/2 pairs, in radians.

    A pair that turns more than `beta_fast` times over the original context keeps its frequency,
    one that turns less than `beta_slow` times is slowed by `factor`, those between are blended.
    For K2's beta_fast = beta_slow = 1 the ramp is a step; K2.5's beta_fast = 32 makes it a slope.
    """
    plain = [base ** (-2 * i / dims) for i in range(dims // 2)]
    if scaling is None:
        return plain

    def pair_turning(times: float) -> float:
        return (
            dims
            * math.log(scaling.original_max_position_embeddings / (times * 2 * math.pi))
            / (2 * math.log(base))
        )

    low = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    high: float = min(math.ceil(pair_turning(scaling.beta_slow)), dims - 1)
    if low == high:
        high += 0.001
    blended = []
    for i, frequency in enumerate(plain):
        slow = min(max((i - low) / (high - low), 0.0), 1.0)
        blended.append(frequency / scaling.factor * slow + frequency * (1 - slow))
    return blended


def get_mscale(factor: float, mscale: float) -> float:
    """YaRN's attention temperature 0.1 m ln(s) + 1, for s > 1."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def softmax_scale(config: ModelConfig) -> float:
    """1/sqrt(head size), times mscale squared when `mscale_all_dim` is set (k2-spec 0.3: never both
    this and a scaled cosine)."""
    scale = config.qk_head_dim**-0.5
    scaling = config.rope_scaling
    if scaling is not None and scaling.mscale_all_dim:
        scale *= get_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
    return scale


class YarnRope:
    """Rotate the last axis of x by its positions offset, offset + 1, ... along the axis before it;
    `offset` int32 [B]: each sequence by its own."""

    def __init__(self, config: ModelConfig):
        self.dims = config.qk_rope_head_dim
        scaling = config.rope_scaling
        inverse = inverse_frequencies(self.dims, config.rope_theta, scaling)
        self.periods = mx.array([1 / f for f in inverse], dtype=mx.float32)
        self.mscale = 1.0
        if scaling is not None:
            self.mscale = get_mscale(scaling.factor, scaling.mscale) / get_mscale(
                scaling.factor, scaling.mscale_all_dim
            )

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x [B, ..., L, dims] -> the same shape."""
        if self.mscale != 1.0:
            x = x * self.mscale
        return mx.fast.rope(
            x, self.dims, traditional=True, base=None, scale=1.0, offset=offset, freqs=self.periods
        )

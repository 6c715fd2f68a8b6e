"""The feed-forward half of a layer: SwiGLU, the sigmoid router, 384 routed experts and a shared
one.

y = sum over the chosen experts of w_e E_e(x), plus the shared expert's output unscaled (k2-spec 2).
Shape letters: B batch, L tokens, K experts a token, E experts, H hidden.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from .experts import Experts, swiglu


class MLP(nn.Module):
    """down(silu(gate x) * up x): the dense layers and the shared expert."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Router(nn.Module):
    """Choose K of E experts by s = sigmoid(x W^T) + correction bias; weigh them by s without the
    bias, normalised to sum 1 and scaled. All in float32: near ties flip experts otherwise (k2-spec
    0.5)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        shape = (config.n_routed_experts, config.hidden_size)
        self.weight = mx.random.normal(shape, scale=config.hidden_size**-0.5)
        self.e_score_correction_bias = mx.zeros((config.n_routed_experts,))

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x [..., H] -> indices [..., K] uint32, weights [..., K] float32."""
        k = self.config.num_experts_per_tok
        scores = mx.sigmoid(x.astype(mx.float32) @ self.weight.astype(mx.float32).T)
        biased = mx.stop_gradient(scores + self.e_score_correction_bias)
        indices = mx.stop_gradient(mx.argpartition(-biased, kth=k - 1, axis=-1)[..., :k])
        weights = mx.take_along_axis(scores, indices, axis=-1)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return indices, weights * self.config.routed_scaling_factor


class MoE(nn.Module):
    """Router, routed experts and the shared expert."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        width = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = MLP(config.hidden_size, width)

    def __call__(self, x: mx.array, router_load: list[mx.array] | None = None) -> mx.array:
        """x [B, L, H] -> the same shape. `router_load` gets the pairs each expert was chosen for,
        [E]."""
        rows = x.reshape(-1, x.shape[-1])
        indices, weights = self.gate(rows)
        if router_load is not None:
            counts = mx.zeros((self.gate.weight.shape[0],))
            router_load.append(counts.at[indices.flatten()].add(mx.ones((indices.size,))))
        y = self.experts(rows, indices, weights)
        return y.reshape(x.shape) + self.shared_experts(x)

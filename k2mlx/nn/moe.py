"""The feed-forward half of a layer: SwiGLU, the sigmoid router, 384 routed experts and a shared
one.

y = sum over the chosen experts of w_e E_e(x), plus the shared expert's output unscaled (k2-spec 2).
Shape letters: T tokens, K experts a token, E experts, I expert width, H hidden.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig, QuantSpec
from .quant import ExpertLinear, expert_linear, linear

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


_fused_swiglu = mx.compile(_swiglu, shapeless=True)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, in one kernel on a GPU. On the CPU mx.compile would start g++ for it."""
    return (_swiglu if mx.default_device() == mx.cpu else _fused_swiglu)(gate, up)


class MLP(nn.Module):
    """down(silu(gate x) * up x): the dense layers and the shared expert."""

    def __init__(self, hidden: int, width: int, spec: QuantSpec | None):
        super().__init__()
        self.gate_proj = linear(hidden, width, spec)
        self.up_proj = linear(hidden, width, spec)
        self.down_proj = linear(width, hidden, spec)

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


class Experts(nn.Module):
    """The routed experts. Gate and up rows of an expert are one matrix [2I, H], gate first, so that
    one gather reads both.

    `capacity`, for training: run every expert on the same number of rows, `capacity` times the
    mean, as one batched product; rows beyond that get zeros. None runs exactly the rows there are.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.capacity: float | None = None
        spec = config.quantization.experts if config.quantization else None
        experts, hidden, width = (
            config.n_routed_experts,
            config.hidden_size,
            config.moe_intermediate_size,
        )
        self.gate_up_proj = expert_linear(experts, hidden, 2 * width, spec)
        self.down_proj = expert_linear(experts, width, hidden, spec)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [T, H], indices [T, K] -> each chosen expert's output [T, K, H]."""
        T, K = indices.shape
        if T * K < SORT_FROM:
            return self._run(x[:, None, None], indices, in_order=False).squeeze(-2)
        flat = indices.flatten()
        order = mx.argsort(flat)
        if self.capacity is None:
            y = self._run(x[order // K][:, None], flat[order], in_order=True).squeeze(-2)
        else:
            y = self._run_batched(x[order // K], flat[order])
        return y[mx.argsort(order)].reshape(T, K, -1)

    def _run_batched(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [N, H] in order of `indices` [N] -> [N, H], by products of [E, C, H]."""
        assert self.capacity is not None and isinstance(self.down_proj, ExpertLinear)
        pairs, experts = len(x), self.down_proj.weight.shape[0]
        rows = math.ceil(self.capacity * pairs / experts)
        counts = mx.zeros((experts,), mx.int32).at[indices].add(1)
        starts = mx.cumsum(counts) - counts
        # Row c of expert e is pair starts[e] + c; where there is none, any row, which nobody reads.
        taken = mx.minimum(starts[:, None] + mx.arange(rows), pairs - 1)
        gate, up = mx.split(x[taken] @ self.gate_up_proj.weight.swapaxes(-1, -2), 2, axis=-1)
        y = swiglu(gate, up) @ self.down_proj.weight.swapaxes(-1, -2)
        place = mx.arange(pairs) - starts[indices]
        slot = indices.astype(mx.int32) * rows + mx.minimum(place, rows - 1)
        return mx.where((place < rows)[:, None], y.reshape(experts * rows, -1)[slot], 0)

    def _run(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        gate, up = mx.split(self.gate_up_proj(x, indices, in_order), 2, axis=-1)
        return self.down_proj(swiglu(gate, up), indices, in_order)


class MoE(nn.Module):
    """Router, routed experts and the shared expert."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        width = config.moe_intermediate_size * config.n_shared_experts
        spec = config.quantization.rest if config.quantization else None
        self.shared_experts = MLP(config.hidden_size, width, spec)

    def __call__(self, x: mx.array, router_load: list[mx.array] | None = None) -> mx.array:
        """x [B, L, H] -> the same shape. `router_load` gets the pairs each expert was chosen for,
        [E]."""
        rows = x.reshape(-1, x.shape[-1])
        indices, weights = self.gate(rows)
        if router_load is not None:
            counts = mx.zeros((self.gate.weight.shape[0],))
            router_load.append(counts.at[indices.flatten()].add(mx.ones((indices.size,))))
        y = self.experts(rows, indices)
        y = (y * weights[..., None].astype(y.dtype)).sum(axis=-2)
        return y.reshape(x.shape) + self.shared_experts(x)

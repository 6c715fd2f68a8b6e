"""The routed experts: K of E SwiGLU networks for each token, and their weighted sum.

Shape letters: T tokens, K experts a token, E experts, I expert width, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import ModelConfig
from . import kernels
from .quant import ExpertLinear, QuantizedExpertLinear

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64

Gather = Callable[[mx.array, mx.array, bool], mx.array]  # rows, their experts, whether these ascend


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


_fused_swiglu = mx.compile(_swiglu, shapeless=True)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, in one kernel on a GPU. On the CPU mx.compile would start g++ for it."""
    return (_swiglu if mx.default_device() == mx.cpu else _fused_swiglu)(gate, up)


class Experts(nn.Module):
    """Gate and up rows of an expert are one matrix [2I, H], gate first, so that one gather reads
    both.

    Three ways to the same sum: our own kernels for few tokens, where they run (kernels.py); MLX's
    gathers; and for many tokens, on devices whose quantised gather reads an expert again for every
    row (CPU, CUDA), expanding a few experts at a time and multiplying all their rows at once.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        experts, hidden, width = (
            config.n_routed_experts,
            config.hidden_size,
            config.moe_intermediate_size,
        )
        self.gate_up_proj = ExpertLinear(experts, hidden, 2 * width)
        self.down_proj = ExpertLinear(experts, width, hidden)

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        """x [T, H], indices [T, K], weights float32 [T, K] -> the weighted sum of the chosen
        experts' outputs [T, H]."""
        gate_up, down = self.gate_up_proj, self.down_proj
        many = _many(x, indices, down.weight.shape[0])
        if not many and _runs_in_kernels(gate_up, x) and _runs_in_kernels(down, x):
            a = kernels.gate_up(x, indices, gate_up.weight, gate_up.scales)
            return kernels.down(a, indices, weights, down.weight, down.scales)
        outputs = self.outputs(x, indices)
        return (outputs * weights[..., None].astype(outputs.dtype)).sum(axis=-2)

    def outputs(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [T, H], indices [T, K] -> each chosen expert's output [T, K, H]."""
        gate_up, down = self.gate_up_proj, self.down_proj
        if indices.size < SORT_FROM:
            return _run(gate_up, down, x[:, None, None], indices, in_order=False).squeeze(-2)
        flat = indices.flatten()
        order = mx.argsort(flat)
        experts = flat[order]
        # Index and reshape, not expand and squeeze: those leave an axis of stride 1, which MLX
        # 0.32.4's sorted gather for CUDA takes for the stride of the rows: of x here and of the
        # gradient of y. train/canary.py checks what a device really computes.
        tokens = (order // indices.shape[1])[:, None]
        if (
            isinstance(gate_up, QuantizedExpertLinear)
            and isinstance(down, QuantizedExpertLinear)
            and _many(x, indices, down.weight.shape[0])
        ):
            y = _by_groups(gate_up, down, x, tokens, experts)
        else:
            y = _run(gate_up, down, x[tokens], experts, in_order=True)
        return y.reshape(indices.size, -1)[mx.argsort(order)].reshape(*indices.shape, -1)


def rows_to_expand(dtype: mx.Dtype) -> float:
    """From how many rows an expert, on average, expanding pays on this device."""
    if mx.default_device() == mx.cpu:
        return 3 if dtype == mx.float32 else math.inf  # all that gather_mm takes there
    return math.inf if mx.metal.is_available() else 8  # Metal's gather reads an expert once


def experts_at_once(size: int) -> int:
    """How many experts to expand together; size: bytes of one, expanded."""
    budget = 1 << 23 if mx.default_device() == mx.cpu else 1 << 29
    return max(1, budget // size)


def _many(x: mx.array, indices: mx.array, experts: int) -> bool:
    return indices.size >= rows_to_expand(x.dtype) * experts


def _runs_in_kernels(matrix: ExpertLinear | QuantizedExpertLinear, x: mx.array) -> bool:
    return isinstance(matrix, QuantizedExpertLinear) and kernels.usable(
        matrix.spec, x.dtype, matrix.shape
    )


def _run(gate_up: Gather, down: Gather, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
    gate, up = mx.split(gate_up(x, indices, in_order), 2, axis=-1)
    return down(swiglu(gate, up), indices, in_order)


def _by_groups(
    gate_up: QuantizedExpertLinear,
    down: QuantizedExpertLinear,
    x: mx.array,
    tokens: mx.array,
    experts: mx.array,
) -> mx.array:
    """x [T, H]; tokens [pairs, 1] and experts [pairs], ascending -> [pairs, 1, H].

    The host waits for `experts`, to know which rows are whose: nothing beside the work that
    follows.
    """
    count, outputs, inputs = gate_up.shape
    step = experts_at_once(outputs * inputs * x.dtype.size)
    starts = range(0, count, step)
    ends = np.searchsorted(np.array(experts), [*starts, count]).tolist()
    done: list[mx.array] = []
    for start, a, b in zip(starts, ends, ends[1:], strict=False):
        if a == b:
            continue
        stop = min(start + step, count)
        gate_up_now, down_now = (_gather(m.expanded(start, stop)) for m in (gate_up, down))
        rows, whose = x[tokens[a:b]], experts[a:b] - start
        done.append(_run(gate_up_now, down_now, rows, whose, in_order=True))
        mx.async_eval(done[-1])
        mx.eval(done[-2:-1])  # at most two groups are expanded at a time
    return mx.concatenate(done)


def _gather(w: mx.array) -> Gather:
    """Multiplication by matrices [E, O, I] in floating point."""
    return lambda x, indices, in_order: mx.gather_mm(
        x, w.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=in_order
    )

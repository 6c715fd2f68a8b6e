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
        many = _many(indices, down.weight.shape[0])
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
        if (
            isinstance(gate_up, QuantizedExpertLinear)
            and isinstance(down, QuantizedExpertLinear)
            and _many(indices, down.weight.shape[0])
        ):
            return _by_groups(gate_up, down, x, indices)
        flat = indices.flatten()
        order = mx.argsort(flat)
        # Index and reshape, not expand and squeeze: those leave an axis of stride 1, which MLX
        # 0.32.4's sorted gather for CUDA takes for the stride of the rows: of x here and of the
        # gradient of y. train/canary.py checks what a device really computes.
        rows = x[(order // indices.shape[1])[:, None]]
        y = _run(gate_up, down, rows, flat[order], in_order=True)
        return y.reshape(indices.size, -1)[mx.argsort(order)].reshape(*indices.shape, -1)


def rows_to_expand() -> float:
    """From how many rows an expert, on average, expanding pays on this device."""
    if mx.default_device() == mx.cpu:
        return 3
    return math.inf if mx.metal.is_available() else 2  # Metal's gather reads an expert once


def experts_at_once(size: int) -> int:
    """How many experts to expand together; size: bytes of one, expanded."""
    budget = 1 << 22 if mx.default_device() == mx.cpu else 1 << 28
    return max(1, budget // size)


def _many(indices: mx.array, experts: int) -> bool:
    return indices.size >= rows_to_expand() * experts


def _runs_in_kernels(matrix: ExpertLinear | QuantizedExpertLinear, x: mx.array) -> bool:
    return isinstance(matrix, QuantizedExpertLinear) and kernels.usable(
        matrix.spec, x.dtype, matrix.shape
    )


def _run(gate_up: Gather, down: Gather, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
    gate, up = mx.split(gate_up(x, indices, in_order), 2, axis=-1)
    return down(swiglu(gate, up), indices, in_order)


def _by_groups(
    gate_up: QuantizedExpertLinear, down: QuantizedExpertLinear, x: mx.array, indices: mx.array
) -> mx.array:
    """x [T, H], indices [T, K] -> [T, K, H].

    The host waits for `indices`, to know which rows are whose: nothing beside the work that
    follows.
    """
    T, K = indices.shape
    count, outputs, inputs = gate_up.shape
    expert_of_pair = np.array(indices).reshape(-1)
    order = np.argsort(expert_of_pair, kind="stable")
    counts = np.bincount(expert_of_pair, minlength=count)
    places = np.empty(T * K, np.uint32)  # of each pair's output among all rows
    done: list[mx.array] = []
    rows = first = 0
    layout = _one_after_another if mx.default_device() == mx.cpu else _padded
    for start, stop in expert_groups(counts, experts_at_once(outputs * inputs * x.dtype.size)):
        size, slots, product = layout(counts[start:stop])
        pairs = order[first : first + slots.size]
        places[pairs] = rows + slots
        tokens = np.zeros(size, np.uint32)
        tokens[slots] = pairs // K
        rows, first = rows + size, first + slots.size
        gate, up = mx.split(product(x[mx.array(tokens)], gate_up.expanded(start, stop)), 2, axis=-1)
        done.append(product(swiglu(gate, up), down.expanded(start, stop)))
        mx.async_eval(done[-1])
        mx.eval(done[-2:-1])  # at most two groups are expanded at a time
    return mx.concatenate(done)[mx.array(places)].reshape(T, K, -1)


# How the rows of a group's experts, `counts` of them each, lie in memory: how many places there
# are, those of the rows, and the product of rows [places, I] with matrices [experts, O, I].
Layout = tuple[int, np.ndarray, Callable[[mx.array, mx.array], mx.array]]


def _one_after_another(counts: np.ndarray) -> Layout:
    """For a CPU, whose gather_mm is half again as quick as the padded product."""
    whose = mx.array(np.repeat(np.arange(len(counts), dtype=np.uint32), counts))

    def product(x: mx.array, w: mx.array) -> mx.array:
        w = w.astype(mx.float32).swapaxes(-1, -2)  # all that gather_mm takes there
        rows = x.astype(mx.float32)[:, None]
        y = mx.gather_mm(rows, w, rhs_indices=whose, sorted_indices=True)
        return y[:, 0].astype(x.dtype)

    return int(counts.sum()), np.arange(counts.sum()), product


def _padded(counts: np.ndarray) -> Layout:
    """As many places for each expert as the busiest has rows, so that a group is one batched
    product: on CUDA four times quicker than gather_mm."""
    experts, most = len(counts), int(counts.max())
    slots = np.concatenate([np.arange(n) + i * most for i, n in enumerate(counts)])

    def product(x: mx.array, w: mx.array) -> mx.array:
        return (x.reshape(experts, most, -1) @ w.swapaxes(-1, -2)).reshape(experts * most, -1)

    return experts * most, slots, product


def expert_groups(counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges of at most `most` neighbouring experts that cover all with rows, `counts` of them
    each; padding at most doubles a range's rows."""
    groups: list[tuple[int, int]] = []
    start = 0
    while start < len(counts):
        stop = start + 1
        total = largest = int(counts[start])
        while total and stop < len(counts) and stop - start < most and counts[stop]:
            total, largest = total + int(counts[stop]), max(largest, int(counts[stop]))
            if (stop + 1 - start) * largest > 2 * total:
                break
            stop += 1
        if counts[start]:
            groups.append((start, stop))
        start = stop
    return groups

"""The routed experts: K of E SwiGLU networks for each token, and their weighted sum.

Shape letters: T tokens, K experts a token, E experts, I expert width, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from . import kernels
from .quant import ExpertLinear, QuantizedExpertLinear

# From this many (token, expert) pairs on, sorting them by expert pays for itself.
SORT_FROM = 64
# Places for rows in a padded product, at most, for each row.
MOST_PADDING = 2.0

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
    return math.inf if mx.metal.is_available() else 8  # Metal's gather reads an expert once


def experts_at_once(size: int) -> int:
    """How many experts to expand together; size: bytes of one, expanded."""
    budget = 1 << 21 if mx.default_device() == mx.cpu else 1 << 28
    return max(1, budget // size)


def pads() -> bool:
    """Whether this device multiplies a group's experts in one batch, their rows padded to the most
    that one has: on CUDA four times quicker than gather_mm, which on a CPU is the quicker one."""
    return mx.default_device() != mx.cpu


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

    Rows of an expert lie together in the places of its group. The host waits for the experts'
    counts of rows: nothing beside the work that follows.
    """
    count, outputs, inputs = gate_up.shape
    flat = indices.flatten()
    order = mx.argsort(flat)
    experts = flat[order]
    counts = _counts(flat, count)
    padded = pads()
    at_once = experts_at_once(outputs * inputs * x.dtype.size)
    groups = expert_groups(counts, at_once, MOST_PADDING if padded else math.inf)

    shift = [0] * count  # from a row's rank among all to its place
    places_of_group: list[tuple[int, int]] = []
    rank = place = 0
    for start, stop in groups:
        first = place
        for e in range(start, stop):
            shift[e] = place - rank
            rank += counts[e]
            place += max(counts[start:stop]) if padded else counts[e]
        places_of_group.append((first, place))
    places = mx.arange(flat.size) + mx.array(shift)[experts]
    tokens = mx.zeros((place,), mx.int32)
    tokens[places] = (order // indices.shape[1]).astype(mx.int32)

    done: list[mx.array] = []
    for (start, stop), (a, b) in zip(groups, places_of_group, strict=True):
        product = _batched if padded else _gathered(experts[a:b] - start)
        gate, up = mx.split(product(x[tokens[a:b]], gate_up.expanded(start, stop)), 2, axis=-1)
        done.append(product(swiglu(gate, up), down.expanded(start, stop)))
        mx.async_eval(done[-1])
        mx.eval(done[-2:-1])  # at most two groups are expanded at a time
    return mx.concatenate(done)[places[mx.argsort(order)]].reshape(*indices.shape, -1)


def _counts(experts: mx.array, count: int) -> list[int]:
    """How often each of `count` experts stands in `experts`."""
    zeros, ones = mx.zeros((count,), mx.int32), mx.ones(experts.shape, mx.int32)
    counts: Any = zeros.at[experts].add(ones).tolist()
    return counts


def _batched(x: mx.array, w: mx.array) -> mx.array:
    """x [places, I], as many for each expert, w [experts, O, I] -> [places, O]."""
    return (x.reshape(w.shape[0], -1, x.shape[-1]) @ w.swapaxes(-1, -2)).flatten(0, 1)


def _gathered(experts: mx.array) -> Callable[[mx.array, mx.array], mx.array]:
    """The same of rows whose experts are given, ascending; float32 is all that a CPU takes."""

    def product(x: mx.array, w: mx.array) -> mx.array:
        rows = x.astype(mx.float32)[:, None]
        w = w.astype(mx.float32).swapaxes(-1, -2)
        y = mx.gather_mm(rows, w, rhs_indices=experts, sorted_indices=True)
        return y[:, 0].astype(x.dtype)

    return product


def expert_groups(counts: list[int], most: int, padding: float) -> list[tuple[int, int]]:
    """Ranges of at most `most` neighbouring experts that cover all with rows, `counts` of them
    each; as many places for each as the busiest has make at most `padding` times the rows."""
    groups: list[tuple[int, int]] = []
    start = 0
    while start < len(counts):
        stop = start + 1
        total = largest = counts[start]
        while total and stop < len(counts) and stop - start < most:
            total, largest = total + counts[stop], max(largest, counts[stop])
            if (stop + 1 - start) * largest > padding * total:
                break
            stop += 1
        if counts[start]:
            groups.append((start, stop))
        start = stop
    return groups

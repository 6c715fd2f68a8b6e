"""Which machine holds which layers.

Machines stand in the order of their ranks; each holds consecutive layers, the first also the
embedding, the last also the head. Each layer brings its cache. A stage takes bytes read /
bandwidth, and the slowest stage sets the pace of prefill and of many streams, so its time is made
as short as memory allows; among equals the sum of the stages, the time of a token of one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from operator import add

from ..errors import ConfigError, PlanError

ROUNDING = 1 + 1e-9  # a sum of times may differ in its last bits from itself in another order


@dataclass(frozen=True)
class Seat:
    """What one machine brings. `capacity`: bytes for weights and cache; `bandwidth`: bytes/s, or
    any number that is in proportion to it."""

    capacity: int
    bandwidth: float


def place(
    layer_bytes: Sequence[int],
    *,
    embed_bytes: int,
    head_bytes: int,
    cache_bytes_per_layer: int,
    machines: Sequence[Seat],
    layer_reads: Sequence[int] | None = None,
    least: int = 0,
) -> list[range]:
    """The layers of each machine: every layer on exactly one, in order, nobody over its memory.

    layer_reads: bytes that a token reads of each layer's weights, `layer_bytes` by default (the
    head is read whole, and each layer's cache). least: layers that each machine gets; without one
    it may get none, where it is too small or slow, or has the head. Exact: a dynamic program over
    (machine, layer).

    Raises PlanError where it does not fit.
    """
    _check_seats(machines)
    task = _Task(layer_bytes, embed_bytes, head_bytes, cache_bytes_per_layer, machines, layer_reads)
    slowest, _ = task.best(max, inf, least)
    if slowest == inf:
        wanted = sum(layer_bytes) + embed_bytes + head_bytes
        wanted += cache_bytes_per_layer * len(layer_bytes)
        room = sum(machine.capacity for machine in machines)
        raise PlanError(
            f"does not fit: {len(layer_bytes)} layers with embedding, head and cache are "
            f"{wanted / 1e9:.1f} GB, {_machines(len(machines))} can hold {room / 1e9:.1f} GB in "
            "whole layers; wanted more memory, a smaller precision or a shorter context"
        )
    return task.best(add, slowest * ROUNDING, least)[1]


def fits(
    layer_bytes: Sequence[int],
    *,
    embed_bytes: int,
    head_bytes: int,
    cache_bytes_per_layer: int,
    machines: Sequence[Seat],
) -> bool:
    """Whether `place` finds a placement. Quick: each machine takes as many layers as it can, which
    leaves the fewest to those after it."""
    layer, last = 0, len(machines) - 1
    for rank, machine in enumerate(machines):
        free = machine.capacity - (embed_bytes if rank == 0 else 0)
        free -= head_bytes if rank == last else 0
        if free < 0:
            return False
        while layer < len(layer_bytes) and layer_bytes[layer] + cache_bytes_per_layer <= free:
            free -= layer_bytes[layer] + cache_bytes_per_layer
            layer += 1
    return bool(machines) and layer == len(layer_bytes)


def check_split(
    counts: Sequence[int],
    layer_bytes: Sequence[int],
    *,
    embed_bytes: int,
    head_bytes: int,
    cache_bytes_per_layer: int,
    machines: Sequence[Seat],
) -> list[range]:
    """The layers of each machine by a split made by hand, `counts` layers each.

    Raises ConfigError where it is no split of these layers over these machines, PlanError where
    a machine would hold more than it can.
    """
    _check_seats(machines)
    if len(counts) != len(machines) or sum(counts) != len(layer_bytes) or min(counts) < 0:
        raise ConfigError(
            f"split: got {','.join(map(str, counts))} (sum {sum(counts)}), wanted a count for each "
            f"of {_machines(len(machines))} that add up to {len(layer_bytes)} layers"
        )
    ends = list(accumulate(counts))
    split = [range(end - count, end) for count, end in zip(counts, ends, strict=True)]
    task = _Task(layer_bytes, embed_bytes, head_bytes, cache_bytes_per_layer, machines, None)
    for rank, layers in enumerate(split):
        held, capacity = task.held(rank, layers.start, layers.stop), machines[rank].capacity
        if held > capacity:
            raise PlanError(
                f"split: machine {rank + 1} of {len(machines)} would hold {len(layers)} layers, "
                f"{held / 1e9:.1f} GB, and can hold {capacity / 1e9:.1f} GB; give it fewer layers"
            )
    return split


class _Task:
    """A placement's numbers as prefix sums, and the dynamic program over them."""

    def __init__(
        self,
        layer_bytes: Sequence[int],
        embed: int,
        head: int,
        cache: int,
        machines: Sequence[Seat],
        layer_reads: Sequence[int] | None,
    ):
        self.layers, self.machines = len(layer_bytes), machines
        self.embed, self.head = embed, head
        self.sizes = [0, *accumulate(size + cache for size in layer_bytes)]
        reads = layer_bytes if layer_reads is None else layer_reads
        self.reads = [0, *accumulate(size + cache for size in reads)]

    def held(self, rank: int, begin: int, end: int) -> int:
        """Bytes on a machine with layers [begin, end)."""
        outside = (self.embed if rank == 0 else 0) + self._head(rank)
        return self.sizes[end] - self.sizes[begin] + outside

    def time(self, rank: int, begin: int, end: int) -> float:
        """Of one token on a machine with layers [begin, end); infinite where they do not fit."""
        if self.held(rank, begin, end) > self.machines[rank].capacity:
            return inf
        read = self.reads[end] - self.reads[begin] + self._head(rank)
        return read / self.machines[rank].bandwidth

    def best(
        self, join: Callable[[float, float], float], limit: float, least: int
    ) -> tuple[float, list[range]]:
        """The least join(stage, stage, ...) of all placements whose stages take at most `limit`,
        and have `least` layers or more; infinite where there is none."""
        # after[end] = least so far with layers [0, end) placed, and where each machine began.
        after: list[tuple[float, tuple[int, ...]]] = [(inf, ())] * (self.layers + 1)
        after[0] = (0.0, ())
        for rank in range(len(self.machines)):
            before, after = after, []
            for end in range(self.layers + 1):
                found = (inf, ())
                for begin in range(end + 1 - least):
                    time = self.time(rank, begin, end) if before[begin][0] < inf else inf
                    if time <= limit and time < inf:
                        total = join(before[begin][0], time)
                        if total < found[0]:
                            found = (total, (*before[begin][1], begin))
                after.append(found)
        total, begins = after[-1]
        ends = (*begins[1:], self.layers)
        return total, [range(b, e) for b, e in zip(begins, ends, strict=False)]

    def _head(self, rank: int) -> int:
        return self.head if rank == len(self.machines) - 1 else 0


def _check_seats(machines: Sequence[Seat]) -> None:
    if not machines:
        raise ConfigError("machines: got none, wanted at least one")
    for rank, machine in enumerate(machines):
        if machine.capacity < 0 or not 0 < machine.bandwidth < inf:
            raise ConfigError(
                f"machine {rank + 1}: got {machine.capacity} bytes and {machine.bandwidth} "
                "bytes/s, wanted 0 or more, and more than 0"
            )


def _machines(count: int) -> str:
    return f"{count} machine" + ("s" if count != 1 else "")

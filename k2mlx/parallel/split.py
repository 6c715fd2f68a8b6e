"""Which rank holds which layers."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..config import ModelConfig
from ..errors import ConfigError, PlanError
from ..plan.machines import find_chip
from ..plan.placement import Seat, check_split, place
from ..plan.sizes import cache_bytes_per_layer, kept_sizes

CONTEXT = 32768  # tokens that every rank must have room for, where the model's own is longer


@dataclass(frozen=True)
class Member:
    """What a rank brings. capacity: bytes for weights and cache; bandwidth: bytes/s of its memory,
    0 where nobody knows it."""

    host: str
    capacity: int
    bandwidth: float


def this_member(capacity: int) -> Member:
    """This machine with so many bytes for a model. The bandwidth of Apple's chips is known by their
    name (plan/macs.toml), that of others is not."""
    return Member(platform.node() or "this machine", capacity, _bandwidth())


def split_layers(
    config: ModelConfig,
    members: Sequence[Member],
    context: int,
    by_hand: Sequence[int] | None = None,
) -> list[range]:
    """The layers of each rank, by memory and bandwidth, or `by_hand` so many each; each rank has
    room for a cache of `context` tokens.

    By the shapes that the config declares, so that ranks that lack each other's files agree.

    Raises: PlanError where it does not fit, or a rank would have no layers; ConfigError for a split
    that is none.
    """
    sizes = kept_sizes(config)
    known = all(member.bandwidth for member in members)
    seats = [Seat(m.capacity, m.bandwidth if known else 1.0) for m in members]
    held: dict[str, Any] = {
        "embed_bytes": sizes.embed_bytes,
        "head_bytes": sizes.head_bytes,
        "cache_bytes_per_layer": cache_bytes_per_layer(config, context),
        "machines": seats,
    }
    each = sizes.layer_bytes
    if by_hand is not None:
        layers = check_split(by_hand, each, **held)
    else:
        reads = sizes.layer_reads(config)
        try:
            layers = place(each, layer_reads=reads, least=1, **held)
        except PlanError:  # where it fits without some of them, say below which
            layers = place(each, layer_reads=reads, **held)
    for rank, (member, mine) in enumerate(zip(members, layers, strict=True)):
        if not mine:
            raise PlanError(
                f"rank {rank} ({member.host}) would hold no layers of {len(each)}, wanted one or"
                f" more; start fewer ranks than {len(members)}, or say --split"
            )
    return layers


def parse_split(text: str) -> list[int]:
    """'31,30' -> [31, 30]. Raises ConfigError."""
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"--split: got {text!r}, wanted layers of each rank, such as 31,30")
    return counts


def _bandwidth() -> float:
    try:
        chip = find_chip(str(mx.device_info().get("device_name", "")))
    except ConfigError:
        return 0.0
    return chip.bandwidth * 1e9

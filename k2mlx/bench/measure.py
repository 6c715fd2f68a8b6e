"""What one timed piece of work took. Every figure is a cost: less is better."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx


class NotMeasuredError(Exception):
    """Why a case cannot be measured here; its row says so."""


@dataclass
class Taken:
    """seconds: of what the case measures. tokens: the answers, to be compared between engines.
    steps: seconds of single steps, such as a conversation's turns. cached: tokens of the prompts
    that k2mlx took from a cache."""

    seconds: float
    tokens: list[list[int]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    cached: int = 0


@dataclass
class Measured(Taken):
    """peak: bytes that were allocated at most, beyond what was before the work began. whole:
    seconds of all the work, what the case does not count included."""

    peak: int = 0
    whole: float = 0.0


def measure(work: Callable[[], Taken]) -> Measured:
    """Do the work and note its peak. What was prepared for it counts as being there before."""
    gc.collect()
    time.sleep(0.01)  # an engine's thread lets go of its last request just after telling us its end
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began = time.perf_counter()
    taken = work()
    mx.synchronize()
    whole = time.perf_counter() - began
    peak = max(0, mx.get_peak_memory() - before)
    return Measured(**vars(taken), peak=peak, whole=whole)

"""The learning rate within a stage: linear warm-up, constant, then a cosine to a floor (WSD,
k2-spec 6).

A stage is as long as its `steps` or as its `minutes`, whichever ends first, so the schedule is a
function of progress in 0..1. A run on a rented machine then ends on time with its learning rate all
the way down.
"""

from __future__ import annotations

import math


def progress(step: int, elapsed: float, steps: int | None, minutes: float | None) -> float:
    """How much of a stage is done: `step` steps in `elapsed` seconds; one limit is given."""
    by_step = step / steps if steps else 0.0
    by_clock = elapsed / (60 * minutes) if minutes else 0.0
    return min(1.0, max(by_step, by_clock))


def learning_rate(
    step: int, done: float, *, peak: float, warmup: int, decay_from: float, floor: float
) -> float:
    """At step `step` (from 0) of a stage that is `done` in 0..1. From `decay_from` on, a cosine
    from `peak` to `floor` * peak at the end."""
    rate = peak * min(1.0, (step + 1) / warmup) if warmup else peak
    if done <= decay_from or decay_from >= 1:
        return rate
    along = min(1.0, (done - decay_from) / (1 - decay_from))
    return rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along)))

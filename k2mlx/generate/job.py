"""A request on its way through the engine, before and while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from k2mlx.generate.generation import Channel
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.sequence import Sequence

Progress = Callable[[int, int], None]


@dataclass
class Job:
    """What was asked. limit: tokens that the answer may have; ends: tokens that end it. number: its
    place among all requests of the engine, by which ranks speak of it."""

    prompt: list[int]
    sampling: Sampling
    limit: int
    ends: frozenset[int]
    on_progress: Progress | None
    channel: Channel
    number: int = 0

    @property
    def length(self) -> int:
        """Tokens that it may come to hold in the cache."""
        return len(self.prompt) + self.limit

    @cached_property
    def ids(self) -> np.ndarray:
        """What of the prompt may be kept already: all but its last token."""
        return np.asarray(self.prompt[:-1], np.int32)

    def progress(self, done: int) -> None:
        """Tell how much of the prompt is computed. Whatever the callback raises, SystemExit
        included, ends this request and no other: else its reader would wait for ever."""
        if self.on_progress is None:
            return
        try:
            self.on_progress(done, len(self.prompt))
        except BaseException as error:
            self.channel.fail(error)


@dataclass(eq=False)
class Stream:
    """A request that runs. began: when its first step did, by time.perf_counter."""

    job: Job
    sequence: Sequence
    began: float

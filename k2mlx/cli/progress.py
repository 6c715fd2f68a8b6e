"""One line of progress on standard error: how far, how fast, how long still; and the memory that it
took."""

import os
import resource
import sys
import time
from typing import TextIO

from k2mlx.progress import Progress

OFTEN = 0.1  # seconds between the times that a line is written over
QUIET = 30.0  # seconds between progress lines where nobody watches a terminal


def watched(out: TextIO) -> bool:
    """Whether a terminal shows it. mlx.launch, a pipe in between, tells its terminal's size."""
    return out.isatty() or {"MLX_RANK", "COLUMNS"} <= os.environ.keys()


class Display:
    """Progress on one line that is written over, or a line now and then where that cannot be."""

    def __init__(self, out: TextIO, before: str = "") -> None:
        self.line, self._before = "", before
        self._out, self._terminal = out, watched(out)
        self._shown, self._width = -QUIET, 0

    def __call__(self, progress: Progress) -> None:
        while progress.notes:
            self.note(progress.notes.popleft())
        self.line = self._before + progress.line()
        if self._terminal:
            self._out.write("\r" + self.line.ljust(self._width))
            self._out.flush()
            self._width = len(self.line)
        elif time.monotonic() - self._shown >= QUIET:
            self._shown = time.monotonic()
            print(self.line, file=self._out, flush=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        self.close()
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """End the line that is being written over."""
        if self._width:
            print(file=self._out)
        self._width = 0


class Report:
    """Shows bytes done of bytes in all, as `k2mlx.weights` reports them. The rate is of this run:
    what the first report calls done is an earlier one's."""

    def __init__(self, what: str, out: TextIO | None = None) -> None:
        self._display = Display(out or sys.stderr, f"{what} ")
        self._progress: Progress | None = None
        self._shown = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        progress = self._progress
        if progress is None or progress.total != total:
            self._display.close()
            self._progress = progress = Progress(total, done)
            self._shown = 0.0
        elif progress.here >= total:  # the end has been shown
            return
        progress.add(done - progress.here)
        now = time.monotonic()
        if now - self._shown >= OFTEN or done >= total:
            self._shown = now
            self._display(progress)
        if done >= total:
            self._display.close()


def peak_rss() -> int:
    """The most memory in bytes that this process, or any one of its children that has ended, has
    held."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return unit * max(resource.getrusage(one).ru_maxrss for one in who)

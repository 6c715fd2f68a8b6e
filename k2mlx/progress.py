"""How far work on many bytes is: done, rate, time left."""

from __future__ import annotations

import threading
import time
from collections import deque

WINDOW = 30.0  # seconds that the rate is averaged over


class Progress:
    """Counts bytes from several threads. `notes` are lines that a person should see once."""

    def __init__(self, total: int, here: int, files: int = 0) -> None:
        self.total = total  # bytes of all that is wanted
        self.here = here  # of these here, be they an earlier run's; checked or not
        self.received = 0  # by this run, thrown away ones included
        self.files = files
        self.files_done = 0
        self.notes: deque[str] = deque()
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, size: int) -> None:
        """Bytes that this run fetched, read or wrote."""
        with self._lock:
            self.here += size
            self.received += size

    def lose(self, size: int) -> None:
        """Bytes on disk that turned out to be useless."""
        with self._lock:
            self.here -= size

    def finish_file(self) -> None:
        with self._lock:
            self.files_done += 1

    def rate(self) -> float:
        """Bytes a second over the last WINDOW seconds."""
        with self._lock:
            now = time.monotonic()
            self._samples.append((now, self.received))
            while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW:
                self._samples.popleft()
            began, received = self._samples[0]
            return (self.received - received) / max(now - began, 1e-3)

    def line(self) -> str:
        """`12.3 GB of 594.2 GB, 84.0 MB/s, 1:55:12 left, 3 of 62 files`."""
        rate = self.rate()
        missing = max(self.total - self.here, 0)
        left = f"{_clock(missing / rate)} left" if rate else "waiting"
        parts = [f"{size_words(self.here)} of {size_words(self.total)}", f"{size_words(rate)}/s"]
        if missing or self.files:
            parts.append(left if missing else "checking")
        if self.files:
            parts.append(f"{self.files_done} of {self.files} files")
        return ", ".join(parts)


def size_words(size: float) -> str:
    """Bytes in decimal units, as disks and networks are sold: 594_200_000_000 -> '594.2 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"

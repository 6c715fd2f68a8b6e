"""What macOS needs to be told while a model serves: keep its weights in memory, and stay awake.

A Mac that is short of memory writes a GPU's buffers out between two requests, and one whose owner
looks elsewhere falls asleep in the middle of a long answer. Nothing here does anything on other
systems. Not run on a Mac.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import mlx.core as mx


@contextmanager
def held(*, wired: bool, awake: bool) -> Generator[None]:
    """As long as the block runs. wired: all memory that Metal recommends for one program may be
    wired, so that what is used is not written out. awake: the system does not sleep when idle (the
    display may)."""
    limit = _set_wired_limit() if wired else None
    guard = _stay_awake() if awake else None
    try:
        yield
    finally:
        if guard is not None:
            guard.terminate()
            guard.wait()
        if limit is not None:
            mx.set_wired_limit(limit)


def _set_wired_limit() -> int | None:
    """Returns the limit before; None where there is none to set (before macOS 15, not Metal)."""
    if not mx.metal.is_available():
        return None
    size = mx.device_info().get("max_recommended_working_set_size")
    if not isinstance(size, int) or size <= 0:
        return None
    try:
        return mx.set_wired_limit(size)
    except (RuntimeError, ValueError) as error:
        print(f"k2mlx: weights may be swapped out: {error}", file=sys.stderr)
        return None


def _stay_awake() -> subprocess.Popen[bytes] | None:
    """caffeinate is part of macOS; it ends with this process however that ends."""
    if sys.platform != "darwin":
        return None
    try:
        return subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())])
    except OSError as error:
        print(f"k2mlx: this Mac may fall asleep: {error}", file=sys.stderr)
        return None

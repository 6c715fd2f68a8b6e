"""How a rank ends: when another is gone, and when somebody asks it to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

GRACE = 2.0  # seconds for other threads to tell their readers
DRAIN = 8.0  # seconds for what runs to end, before the process does
_leaving = threading.Lock()


def leave(error: BaseException, grace: float = GRACE) -> NoReturn:
    """Say why, and end this process with code 1: another rank is gone, and a thread may wait for it
    inside MLX for ever. Whoever calls it second only waits for the end: it is said once.

    Ends by _exit, which frees the device's memory in order; SIGKILL would not on a Mac.
    """
    if not _leaving.acquire(blocking=False):
        while True:  # not for ever in one call, which signals could not get into
            time.sleep(1)
    _end_after(grace + 1, 1)  # whoever reads our output may be stopped, and writing wait for ever
    with suppress(OSError, ValueError):  # or gone
        print(f"k2mlx: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    time.sleep(grace)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)


def on_signals(stop: Callable[[], None]) -> None:
    """At the first SIGTERM, SIGINT or SIGHUP `stop` is called, to end in order; at another a second
    later, or after DRAIN seconds, the process ends. For the main thread.

    The end of the process that started this one (mlx.launch, or sshd) is a SIGTERM, too; unless
    SIGHUP is ignored, as nohup has it.
    """
    asked: list[float] = []

    def handle(number: int, _: FrameType | None) -> None:
        if asked:  # Ctrl-C reaches all ranks of a terminal at once, and each asks for the end
            if time.monotonic() - asked[0] > 1:
                os._exit(128 + number)
            return
        asked.append(time.monotonic())
        _end_after(DRAIN, 128 + number)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handle)
        threading.Thread(target=_watch_parent, name="k2mlx parent", daemon=True).start()


def _watch_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_after(seconds: float, code: int) -> None:
    def end() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=end, name="k2mlx end", daemon=True).start()

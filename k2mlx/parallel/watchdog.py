"""An end to waiting inside MLX.

`mx.distributed.init` waits for a neighbour that does not come for ever, and holds Python's lock
while it does: no thread of this process runs, no signal handler written in Python, not even
Ctrl-C's. So another process watches, and SIGINT goes to the C library's own _exit.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from os import getpid

# Ends when its standard input does: the wait is over, or whoever waited is gone.
_WATCH = """
import os, select, signal, sys
pid, seconds, line = sys.argv[1:]
if not select.select([0], [], [], float(seconds))[0]:
    print(line, file=sys.stderr, flush=True)
    os.kill(int(pid), signal.SIGINT)
"""


@contextmanager
def watched(seconds: float, line: str) -> Generator[None]:
    """What is in the block may last so long. Then `line` is said, and this process ends with code
    2; it does at Ctrl-C, too. For the main thread; elsewhere nothing is watched."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(getpid()), str(seconds), line],
        stdin=subprocess.PIPE,
    )
    before = signal.getsignal(signal.SIGINT)
    libc = ctypes.CDLL(None)
    # A handler is given the signal's number, and SIGINT's is the code that is wanted.
    libc.signal(int(signal.SIGINT), ctypes.cast(libc._exit, ctypes.c_void_p))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        assert watch.stdin is not None
        watch.stdin.close()
        watch.wait()

"""Threads that use MLX: lent to one engine after another, and never ended.

MLX 0.32.4 keeps its random state in a thread-local Python object, which making any layer touches.
The operating system destroys it after Python has counted the thread as joined; where the process
exits at that moment, it aborts ("terminate called without an active exception", 7 times in 25).
A thread that waits for its next task is never destroyed, so this cannot happen; and MLX, which
makes a stream for each thread and keeps it, makes no more of them than engines lived at once.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

_idle: "deque[SimpleQueue[Callable[[], None]]]" = deque()


def run(task: Callable[[], None]) -> None:
    """Run a task, which must not raise, on a thread of its own; returns at once."""
    try:
        tasks = _idle.pop()
    except IndexError:
        tasks = SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), name="k2mlx-engine", daemon=True).start()
    tasks.put(task)


def _serve(tasks: "SimpleQueue[Callable[[], None]]") -> None:
    while True:
        task = tasks.get()
        task()
        del task  # or it would live until the next one
        _idle.append(tasks)

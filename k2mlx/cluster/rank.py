"""One rank under `k2mlx cluster run`, on its own machine: a process that watches over the real one.

    python -m k2mlx.cluster.rank JOB -- COMMAND...   run it; says when it starts, and how it ended
    python -m k2mlx.cluster.rank --stop JOB          ask rank 0 of a job, here, to end for all
    python -m k2mlx.cluster.rank --reap JOB          end what is left of them here
    python -m k2mlx.cluster.rank --fits MODEL        whether the machines on standard input hold it
    python -m k2mlx.cluster.rank --member            what this machine brings for a model

mlx.launch tells neither how a rank ended nor, reliably, that it did, and a stopped process makes it
wait for ever; so each rank tells by itself, in a line that begins with MARK.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..home import home, home_path, write_private

MARK = "\x1e"  # begins what is for `k2mlx cluster run`; ends with the line
GRACE = 10.0  # seconds from asking a process to end until it is made to
POLL = 0.5
ENDED = ".ended"  # the record of a rank that has


def main(argv: list[str]) -> int:
    match argv:
        case ["--stop", job]:
            for watcher, *_ in _left(f"{job}.0"):  # rank 0 tells the others
                _signal(watcher, signal.SIGTERM)
        case ["--reap", job]:
            reap(job)
        case ["--member"]:
            print(json.dumps(_member()))
        case ["--fits", model]:
            return _fits(model, json.load(sys.stdin))
        case [job, "--", *command]:
            return watch(job, command)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def watch(job: str, command: list[str]) -> int:
    """Run the command; its exit code. It is asked to end when this process is, and when whoever
    started this is gone."""
    rank, parent = os.environ.get("MLX_RANK", "0"), os.getppid()
    ending: list[float] = []
    child: subprocess.Popen[bytes] | None = None

    def end(*_: object) -> None:
        if not ending:
            ending.append(time.monotonic())
        if child is not None:
            _signal(child.pid, signal.SIGTERM)
            _signal(child.pid, signal.SIGCONT)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None if ending else end())
    try:
        # A session of its own: what ends ours, such as a cable that is pulled, must not kill it
        # before it could leave in order.
        child = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(f"k2mlx: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        _say(f"{job} {rank} ended 2")
        return 2
    if ending:  # it was asked for before there was anything to end
        end()
    record = _path(job, rank)
    processes = [(pid, _started(pid)) for pid in (os.getpid(), child.pid)]
    write_private(record, json.dumps(processes))
    _say(f"{job} {rank} up {os.getpid()}")
    while True:
        try:
            code = child.wait(POLL)
            break
        except subprocess.TimeoutExpired:
            if os.getppid() != parent and not ending:
                end()
            if ending and time.monotonic() - ending[0] > GRACE:
                _signal(child.pid, signal.SIGKILL)
    code = code if code >= 0 else 128 - code
    write_private(record.with_suffix(ENDED), f"{rank} {code}")
    record.unlink(missing_ok=True)
    time.sleep(0.2)  # mlx.launch mixes the ranks' output; what was said before has left by then
    _say(f"{job} {rank} ended {code}")
    return code


def reap(job: str) -> None:
    """End the job's processes on this machine: asked to (and woken, if stopped), then made to.
    Says how each ended: when mlx.launch ends one it takes away its terminal first."""
    for pids in _left(job):
        for pid in pids:
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)
    limit = time.monotonic() + GRACE
    while (left := list(_left(job))) and time.monotonic() < limit:
        time.sleep(0.1)
    for pids in left:
        for pid in pids:
            _signal(pid, signal.SIGKILL)
    for path in _folder().glob(f"{job}.*"):
        if path.suffix == ENDED:
            rank, code = path.read_text().split()
            _say(f"{job} {rank} ended {code}")
        path.unlink(missing_ok=True)


def _left(which: str) -> Iterator[list[int]]:
    """What still runs of a job's ranks, or of one rank: the watcher, if it does, first. The very
    processes, not others that got their number."""
    for path in _folder().glob(f"{which}.*json"):
        with suppress(OSError, ValueError):
            processes = json.loads(path.read_text())
            if pids := [pid for pid, since in processes if since and _started(pid) == since]:
                yield pids


def _started(pid: int) -> str:
    """When this process started; '' if there is none, or what is left of one that has ended."""
    done = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True
    )
    state, _, started = done.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _folder() -> Path:
    return home_path() / "cluster"


def _path(job: str, rank: str) -> Path:
    home()
    return _folder() / f"{job}.{rank}.json"


def _say(text: str) -> None:
    with suppress(OSError):  # whoever listened may be gone
        os.write(1, f"{MARK}{text}\n".encode())


def _member() -> dict[str, Any]:
    from dataclasses import asdict

    from ..generate.memory import free_memory
    from ..parallel.split import this_member

    return asdict(this_member(free_memory()))


def _fits(model: str, members: list[dict[str, Any]]) -> int:
    from ..config import ModelConfig
    from ..errors import K2Error
    from ..home import find_model
    from ..parallel.split import CONTEXT, Member, split_layers

    try:
        config = ModelConfig.load(find_model(model))
        context = min(CONTEXT, config.max_position_embeddings)
        split_layers(config, [Member(**member) for member in members], context)
    except K2Error as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

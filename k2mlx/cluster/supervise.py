"""A command on all hosts by mlx.launch, watched: its true exit code, its end in order, nothing left
over, and another start when a host was lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import ClusterError
from .hostfile import Host, HostFile
from .launch import Run
from .rank import GRACE
from .remote import ANSWER, Remote, Unreachable

STEADY = 600.0  # seconds after which a start has not come to nothing
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """python: the interpreter, on all hosts. model: what the command runs, None if nobody knows.
    wait: seconds for a lost host to come back; retries: how often to start again; port: the first
    of those that the ring uses."""

    python: str
    model: str | None
    wait: float = 60.0
    retries: int = 3
    port: int = 32323


def supervise(
    hostfile: HostFile, command: Sequence[str], settings: Settings, say: Say, stop: threading.Event
) -> int:
    """Run the command until it ends by itself; its exit code. stop: when set, the ranks are asked
    to end.

    Started again after a rank was lost: on all hosts, if they answer within settings.wait; else on
    the rest, if it can hold the model. Not after an error in what the user gave (code 2).
    """
    hosts, starts = list(hostfile.hosts), 0  # starts in a row that came to nothing
    while True:
        began = time.monotonic()
        chosen = hostfile.only(hosts)
        ended = Run(chosen, command, settings.python, settings.port, stop).wait()
        if stop.is_set() or not ended.failed:
            return ended.code
        say(ended.account)
        starts = 1 if time.monotonic() - began > STEADY else starts + 1
        if starts > settings.retries:
            say(f"gave up after {starts} starts")
            return 1
        try:
            hosts = _again(hostfile, settings, say, stop)
        except ClusterError as error:
            say(str(error))
            return 1
        if stop.is_set():
            return 1
        names = ", ".join(host.ssh for host in hosts)
        say(f"starting again on {names} ({starts} of {settings.retries})")


def _again(hostfile: HostFile, settings: Settings, say: Say, stop: threading.Event) -> list[Host]:
    """The hosts to start again on. Raises: ClusterError where there are none that could."""
    hosts, limit = list(hostfile.hosts), time.monotonic() + settings.wait
    while absent := _absent(hosts):
        names = ", ".join(host.ssh for host in hosts if host in absent)
        left = limit - time.monotonic()
        if left <= 0 or stop.is_set():
            break
        say(f"{names} does not answer; waiting {left:.0f} s more")
        stop.wait(min(left, 10.0))
    else:
        return hosts
    rest = [host for host in hosts if host not in absent]
    if not rest:
        raise ClusterError("no host answers; look at the network, and start again")
    _check_fit(rest, names, settings)
    return rest


def _check_fit(rest: list[Host], lost: str, settings: Settings) -> None:
    """ClusterError where the rest cannot hold the model, or nobody can tell."""
    names = ", ".join(host.ssh for host in rest)
    if settings.model is None:
        raise ClusterError(f"{lost} stays away, and which model {names} should hold is not known")
    members = [json.loads(_ask(host, settings, "--member")) for host in rest]
    try:
        _ask(rest[0], settings, "--fits", settings.model, text=json.dumps(members))
    except ClusterError as error:
        raise ClusterError(
            f"{lost} stays away, and {names} cannot hold the model: {error}"
        ) from None


def _absent(hosts: list[Host]) -> list[Host]:
    def answers(host: Host) -> bool:
        try:
            return Remote(host.ssh).run(["true"], timeout=ANSWER).code == 0
        except Unreachable:
            return False

    with ThreadPoolExecutor(len(hosts)) as pool:
        return [h for h, ok in zip(hosts, pool.map(answers, hosts), strict=True) if not ok]


def _ask(host: Host, settings: Settings, *words: str, text: str = "") -> str:
    """What k2mlx.cluster.rank says on a host. Raises: ClusterError with its last line."""
    argv = [settings.python, "-m", "k2mlx.cluster.rank", *words]
    done = Remote(host.ssh).run(argv, timeout=2 * GRACE + ANSWER, text=text)
    if done.code:
        said = (done.out + done.err).strip().splitlines() or [f"exit code {done.code}"]
        raise ClusterError(said[-1] if words[0] == "--fits" else f"{host.ssh}: {said[-1]}")
    return done.out


def model_of(command: Sequence[str]) -> str | None:
    """What a k2mlx command runs: its --model, or the bundled one; None where it is not ours."""
    for i, word in enumerate(command):
        if word == "--model" and i + 1 < len(command):
            return command[i + 1]
        if word.startswith("--model="):
            return word.partition("=")[2]
    return "models/k2-nano" if "k2mlx" in command else None

"""Can these machines work together? Every host is visited over ssh, and each pair of neighbours
measured."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from ..errors import ClusterError
from ..parallel.facts import check_facts
from .hostfile import Host, HostFile
from .remote import ANSWER, Remote, Unreachable

LOADING = 60.0  # seconds for a host to look at its versions and at a model's files
MEASURING = 40.0
SLOW_TRIP = 5e-3  # seconds; a token makes as many trips as there are hosts
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Visit:
    """What a host said. right: its round trip (s) and bandwidth (bytes/s) to the next host."""

    host: Host
    said: dict[str, Any] = field(default_factory=dict)
    right: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(hostfile: HostFile, python: str, model: str | None) -> list[Visit]:
    """All hosts, in the order of the ranks, and what is wrong with each."""
    visits = [Visit(host) for host in hostfile.hosts]
    _all(lambda visit: _visit(visit, python, model), visits)
    heard = [visit for visit in visits if visit.said]
    _compare(heard)
    if len(heard) == len(visits) > 1:  # one link after another: they may share a switch
        for left, right in pairwise([*visits, visits[0]]):
            if left is not right:
                _measure(left, right, python)
    return visits


def _visit(visit: Visit, python: str, model: str | None) -> None:
    host = visit.host
    if not host.ips:
        visit.problems.append(f"{host.ssh}: the host file has no address; run 'k2mlx cluster init'")
    words = [python, "-m", "k2mlx.cluster.visit", "facts", *([model] if model else [])]
    try:
        done = Remote(host.ssh).run(words, timeout=LOADING)
        visit.said = json.loads(done.out.splitlines()[-1])
    except Unreachable as error:
        visit.problems.append(str(error))
        return
    except (ValueError, IndexError):
        last = (done.err.strip().splitlines() or [f"exit code {done.code}"])[-1]
        visit.problems.append(
            f"{host.ssh}: {python} has no k2mlx there ({last}); install it in the same place on all"
            " hosts, or say --python"
        )
        return
    visit.problems += [f"{host.ssh}: {problem}" for problem in visit.said["problems"]]
    if reason := visit.said.get("model"):
        visit.problems.append(f"{host.ssh}: {reason}")


def _compare(visits: Sequence[Visit]) -> None:
    """Versions and models must be alike; the first difference from rank 0 is named."""
    if not visits:
        return
    first = visits[0]
    for visit in visits[1:]:
        if "facts" in visit.said and "facts" in first.said:
            try:
                check_facts([first.said["facts"], visit.said["facts"]])
            except ClusterError as error:
                visit.problems.append(f"{visit.host.ssh}: {error}")
            continue
        for key in ("k2mlx", "mlx"):
            if visit.said[key] != first.said[key]:
                visit.problems.append(
                    f"{visit.host.ssh}: has {key} {visit.said[key]}, {first.host.ssh} has"
                    f" {first.said[key]}; install one version on both"
                )


def _measure(left: Visit, right: Visit, python: str) -> None:
    """From left to right: a server there, which listens for the secret on its address alone."""
    if not left.host.ips or not right.host.ips:
        return
    secret, visitor = secrets.token_hex(16), [python, "-m", "k2mlx.cluster.visit"]
    address = right.host.ips[0]
    server = subprocess.Popen(
        Remote(right.host.ssh).command([*visitor, "serve", address]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(f"{secret}\n")
            server.stdin.flush()
            port = server.stdout.readline().strip()
            if not port.isdigit():
                raise ClusterError(f"{right.host.ssh}: cannot listen on {address}; is it its own?")
            words = [*visitor, "measure", address, port]
            done = Remote(left.host.ssh).run(words, timeout=MEASURING, text=f"{secret}\n")
            left.right = json.loads(done.out or '{"error": "nothing was measured"}')
        except (ClusterError, OSError, ValueError) as error:
            left.right = {"error": str(error)}
        finally:
            with suppress(OSError):
                server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(ANSWER)
    if error := left.right.get("error"):
        left.problems.append(_unheard(left, right, address, error))
    elif left.right["round_trip"] > SLOW_TRIP:
        left.problems.append(
            f"{left.host.ssh}: {1e3 * left.right['round_trip']:.1f} ms to {right.host.ssh} and"
            " back, which every token pays; is there a cable?"
        )


def _unheard(left: Visit, right: Visit, address: str, error: str) -> str:
    text = f"{left.host.ssh}: does not reach {right.host.ssh} at {address} ({error})"
    if "Darwin" in (left.said["system"], right.said["system"]):
        return text + (
            "; on both Macs, allow the terminal in System Settings, Privacy & Security, Local"
            " Network"
        )
    return text + "; is a firewall in between?"


def table(visits: Sequence[Visit]) -> list[tuple[str, ...]]:
    """Rows for people, the first with the columns' names."""
    rows = [("rank", "host", "address", "python", "k2mlx", "mlx", "memory", "model", "to the next")]
    for rank, visit in enumerate(visits):
        said, right = visit.said, visit.right
        link = ""
        if "round_trip" in right:
            speed = right["bandwidth"] * 8e-9
            link = f"{1e3 * right['round_trip']:.2f} ms, {speed:.1f} Gbit/s"
        model = "present" if "facts" in said else "missing" if "model" in said else ""
        address = visit.host.ips[0] if visit.host.ips else "none"
        versions = [said.get(key, "") for key in ("python", "k2mlx", "mlx")]
        memory = f"{said['capacity'] / 1e9:.0f} GB" if said else "no answer"
        rows.append((str(rank), visit.host.ssh, address, *versions, memory, model, link))
    return rows


def notes(visits: Sequence[Visit]) -> list[str]:
    """What is no problem, and good to know: RDMA."""
    return [
        f"{visit.host.ssh}: RDMA: {visit.said['rdma']}"
        for visit in visits
        if visit.said.get("rdma")
    ]


def _all(do: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(do, items))

"""Visits every host of a host file, and lets neighbours measure the way between them."""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ..errors import ClusterError
from .hostfile import Host, HostFile
from .judge import Link, Report, Visit, judge
from .remote import ANSWER, Remote, Unreachable

TOLD = {"system", "free", "model", "error", "firewall", "rdma", "facts"}
VISIT = 90.0  # seconds: MLX is imported there, and files of a model are read


def check(hostfile: HostFile, model: str | None, python: str) -> Report:
    """Visit all hosts at once, then measure one pair after the other."""
    names = list(dict.fromkeys(host.ssh for host in hostfile.hosts))
    with ThreadPoolExecutor(len(names)) as pool:
        told = dict(
            zip(names, pool.map(lambda name: visit_host(name, model, python), names), strict=True)
        )
    visits = [Visit(host, *told[host.ssh]) for host in hostfile.hosts]
    links = []
    for one, other in neighbours(visits):
        links.append(measure(one.host, other.host, python))
    fit = ""
    if model is not None and all(visit.told and not visit.told["error"] for visit in visits):
        fit = _fits(visits, model, python)
    return judge(hostfile, visits, links, fit)


def visit_host(name: str, model: str | None, python: str) -> tuple[dict[str, Any] | None, str]:
    """What k2mlx.cluster.visit tells there; or None, and why it does not."""
    argv = [python, "-m", "k2mlx.cluster.visit", *([model] if model is not None else [])]
    try:
        done = Remote(name).run(argv, timeout=VISIT)
    except Unreachable as error:
        return None, str(error)
    try:
        told = json.loads(_last(done.out))
        if done.code == 0 and isinstance(told, dict) and told.keys() >= TOLD:
            return told, ""
    except ValueError:
        pass
    said = _last(done.err) or _last(done.out) or f"exit code {done.code}"
    return None, (
        f"{name}: {python} cannot run k2mlx there ({said}); install the same k2mlx, or name its"
        " interpreter by --python"
    )


def neighbours(visits: Sequence[Visit]) -> list[tuple[Visit, Visit]]:
    """Who sends to whom around the ring, of those that could be visited and have addresses."""
    after = [*visits[1:], *visits[:1]]
    return [
        (one, other)
        for one, other in zip(visits, after, strict=True)
        if one is not other and all(v.told and v.host.ips for v in (one, other))
    ]


def measure(one: Host, other: Host, python: str) -> Link:
    """`other` listens on its address of the host file, `one` connects to it from its own."""
    probe = [python, "-m", "k2mlx.cluster.probe"]
    secret = secrets.token_hex(32) + "\n"
    listener = subprocess.Popen(
        Remote(other.ssh).command([*probe, "listen", other.ips[0]]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    patience = threading.Timer(ANSWER, listener.kill)
    patience.start()
    try:
        assert listener.stdin is not None and listener.stdout is not None
        listener.stdin.write(secret)
        listener.stdin.flush()
        heard = _json(listener.stdout.readline())
        patience.cancel()
        if "port" not in heard:
            why = heard.get("error", "no answer")
            return Link(one.ssh, other.ssh, error=f"cannot listen on {other.ips[0]}: {why}")
        argv = [*probe, "connect", one.ips[0], other.ips[0], str(heard["port"])]
        done = Remote(one.ssh).run(argv, timeout=2 * ANSWER, text=secret)
        found = _json(_last(done.out))
    except (Unreachable, BrokenPipeError) as error:
        return Link(one.ssh, other.ssh, error=str(error))
    finally:
        patience.cancel()
        _end(listener)
    if "round_trip" not in found:
        why = found.get("error") or _last(done.err) or f"exit code {done.code}"
        return Link(one.ssh, other.ssh, error=why, name=found.get("name", ""))
    return Link(one.ssh, other.ssh, found["round_trip"], found["bandwidth"])


def _end(listener: subprocess.Popen[str]) -> None:
    """By the end of its input, which ssh passes on; ssh itself is killed if it stays."""
    assert listener.stdin is not None and listener.stdout is not None
    with suppress(BrokenPipeError):
        listener.stdin.close()
    try:
        listener.wait(2.0)
    except subprocess.TimeoutExpired:
        listener.kill()
        listener.wait()
    listener.stdout.close()


def _fits(visits: Sequence[Visit], model: str, python: str) -> str:
    """'', or why the hosts cannot hold the model together."""
    members = [visit.told["facts"]["member"] for visit in visits if visit.told]
    argv = [python, "-m", "k2mlx.cluster.rank", "--fits", model]
    try:
        done = Remote(visits[0].host.ssh).run(argv, timeout=VISIT, text=json.dumps(members))
    except ClusterError as error:
        return str(error)
    return (_last(done.out) or _last(done.err)) if done.code else ""


def _json(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""

"""A host file for these hosts: each is asked for its networks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..errors import ClusterError, RequestError
from .hostfile import LOCAL, Host, HostFile
from .interfaces import SCRIPT, Machine, choose, parse, summary
from .remote import ANSWER, Remote


def find(names: Sequence[str]) -> tuple[HostFile, list[str]]:
    """The host file, and a line for each host: what it uses and why.

    Raises: RequestError for a host named twice, ClusterError for one that does not answer, and
    where no network has them all.
    """
    if set(names) == {LOCAL}:  # several ranks on this machine, for trying
        return HostFile((Host(LOCAL, (LOCAL,)),) * len(names)), [f"{LOCAL}: only this machine"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RequestError(f"cluster init: got {', '.join(twice)} twice, wanted each host once")
    with ThreadPoolExecutor(len(names)) as pool:
        machines = dict(zip(names, pool.map(_ask, names), strict=True))
    chosen = choose(machines)
    hosts = [
        Host(name, (chosen[name].ip,), (), _size(machines[name].memory), machines[name].chip)
        for name in names
    ]
    return HostFile(tuple(hosts)), summary(chosen, machines)


def _ask(name: str) -> Machine:
    done = Remote(name).run(["sh", "-c", SCRIPT], timeout=ANSWER)
    try:
        return parse(done.out)
    except ClusterError as error:
        raise ClusterError(f"{name}: {error}") from None


def _size(memory: int) -> str:
    """As on the label: "512GB" for 512 GiB."""
    return f"{max(round(memory / 2**30), 1)}GB" if memory else ""

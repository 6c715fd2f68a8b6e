"""What `k2mlx cluster check` found, as a table, and what is wrong with it: each in one line with
what to do next. What it says of macOS comes from Apple's documents; nothing was run on a Mac."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ClusterError
from ..parallel.facts import check_facts
from .hostfile import Host, HostFile

SLOW_TRIP = 2e-3  # seconds: a token crosses each link once
SLOW = 100e6  # bytes/s: less than Gigabit Ethernet carries
ENABLE_RDMA = (
    "start it in recovery mode (hold the power button), open Terminal, run 'rdma_ctl enable'"
)
LOCAL_NETWORK = (
    "allow your terminal (or python) under System Settings > Privacy & Security > Local Network"
)


@dataclass(frozen=True)
class Visit:
    """told: what visit.py says on the host; None where it could not, for the reason `error`."""

    host: Host
    told: dict[str, Any] | None
    error: str = ""


@dataclass(frozen=True)
class Link:
    """From one host to the next. round_trip: seconds; bandwidth: bytes/s; or an error, and the
    name of its number."""

    one: str
    other: str
    round_trip: float = 0.0
    bandwidth: float = 0.0
    error: str = ""
    name: str = ""


@dataclass
class Report:
    """problems: what must be mended; notes: what could be better. One line each."""

    rows: list[dict[str, str]]
    links: list[Link]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"well": not self.problems}, indent=2)

    def __str__(self) -> str:
        lines = _table(self.rows)
        for link in self.links:
            way = f"{link.one} -> {link.other}:"
            if link.error:
                lines.append(f"{way} {link.error}")
            else:
                trip, rate = link.round_trip * 1e3, link.bandwidth / 1e6
                lines.append(f"{way} round trip {trip:.2f} ms, {rate:.0f} MB/s")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems] or ["all is well"]
        return "\n".join(lines)


def judge(
    hostfile: HostFile, visits: Sequence[Visit], links: Sequence[Link], fit: str = ""
) -> Report:
    """visits: in the order of the ranks. fit: why the model does not fit there, if it does not."""
    report = Report([_row(visit, links) for visit in visits], list(links))
    add, note = report.problems.append, report.notes.append
    for visit in visits:
        name, told = visit.host.ssh, visit.told
        if told is None:
            add(visit.error)
            continue
        if not visit.host.ips:
            add(f"{name}: no address in the host file; 'k2mlx cluster init' finds it")
        if told["error"]:
            add(f"{name}: {told['error']}; copy the model there, or 'k2mlx pull' it")
        if told["firewall"] == "blocks all":
            add(
                f"{name}: the firewall blocks all incoming connections; switch that off under"
                " System Settings > Network > Firewall > Options"
            )
        _judge_rdma(hostfile, visit, told["rdma"], add, note)
    _compare(visits, add)
    for link in links:
        if link.error:
            add(_advice(link, visits))
        elif link.round_trip > SLOW_TRIP or link.bandwidth < SLOW:
            note(
                f"{link.one} -> {link.other} is slow; a Thunderbolt or 10 Gbit/s cable would be"
                " faster, after which 'k2mlx cluster init' takes it"
            )
    if fit:
        add(f"the model does not fit on these hosts: {fit}")
    report.problems, report.notes = _once(report.problems), _once(report.notes)
    return report


def _judge_rdma(
    hostfile: HostFile, visit: Visit, rdma: dict[str, Any], add: Any, note: Any
) -> None:
    name = visit.host.ssh
    if not hostfile.backend.startswith("jaccl"):
        if rdma["capable"] and not rdma["devices"]:
            note(f"{name}: RDMA is off; for --backend jaccl {ENABLE_RDMA}")
        return
    if not rdma["devices"]:
        add(f"{name}: no RDMA devices, which jaccl needs; {ENABLE_RDMA}")
        return
    wanted = {
        d for entry in visit.host.rdma for d in ([entry] if isinstance(entry, str) else entry or [])
    }
    if missing := sorted(wanted - set(rdma["devices"])):
        add(
            f"{name}: has no {', '.join(missing)}, only {', '.join(rdma['devices'])}; write the"
            " host file anew with 'k2mlx cluster init --backend jaccl --force'"
        )


def _compare(visits: Sequence[Visit], add: Any) -> None:
    """Each host with the first that could be visited, as the ranks will."""
    told = [(rank, visit.told["facts"]) for rank, visit in enumerate(visits) if visit.told]
    for rank, facts in told[1:]:
        try:
            # The places before it hold what is like the first, so that the rank in the message is
            # its own.
            check_facts([told[0][1]] * rank + [facts])
        except ClusterError as error:
            add(str(error))


def _advice(link: Link, visits: Sequence[Visit]) -> str:
    by_name = {visit.host.ssh: visit for visit in visits}
    ends = [by_name[name].told or {} for name in (link.one, link.other)]
    said = f"{link.one} -> {link.other}: {link.error}"
    if link.error.startswith("cannot listen"):
        return (
            f"{said}; has its address changed? write the host file anew with 'k2mlx cluster init'"
        )
    if link.name == "EADDRNOTAVAIL":
        own = by_name[link.one].host.ips[0]
        return (
            f"{said} ({link.one} has no address {own}); write the host file anew with 'k2mlx"
            " cluster init'"
        )
    if link.name == "EHOSTUNREACH" and ends[0].get("system") == "Darwin":
        return f"{said}; on {link.one}, {LOCAL_NETWORK}; and look at the cable"
    if ends[1].get("firewall") in ("on", "blocks all"):
        return (
            f"{said}; the firewall of {link.other} is on: allow python there under System Settings"
            " > Network > Firewall > Options"
        )
    return f"{said}; look at the cable and at firewalls between them, and try 'ping'"


def _row(visit: Visit, links: Sequence[Link]) -> dict[str, str]:
    """A line of the table."""
    row = {"host": visit.host.ssh, "address": visit.host.ips[0] if visit.host.ips else "none"}
    told = visit.told
    if told is None:
        return row | {"reachable": "no"}
    facts, rdma = told["facts"], told["rdma"]
    devices = ",".join(rdma["devices"]) or ("off" if rdma["capable"] else "none")
    return row | {
        "reachable": "yes",
        "python": facts["python"],
        "k2mlx": facts["k2mlx"],
        "mlx": facts["mlx"],
        "free": f"{told['free'] / 1e9:.1f} GB",
        "model": _model(told),
        "firewall": told["firewall"] or "-",
        "local network": _local_network(visit, links),
        "rdma": devices,
    }


def _model(told: dict[str, Any]) -> str:
    """A hash of what ranks compare, and how many files of weights there are."""
    if told["error"]:
        return "missing"
    if told["model"] is None:
        return "-"
    facts = told["facts"]
    said = json.dumps([facts["description"], facts["weights"]], sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    return f"{digest} ({len(facts['weights'])} files)"


def _local_network(visit: Visit, links: Sequence[Link]) -> str:
    """macOS's permission cannot be asked for; a connection that was made tells that it is given."""
    if not visit.told or visit.told["system"] != "Darwin":
        return "-"
    mine = [link for link in links if link.one == visit.host.ssh]
    if any(not link.error for link in mine):
        return "allowed"
    return "denied?" if any(link.name == "EHOSTUNREACH" for link in mine) else "unknown"


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    columns = max(rows, key=len, default={})
    widths = {c: max(len(c), *(len(row.get(c, "")) for row in rows)) for c in columns}
    return [
        "  ".join(cells.get(c, "").ljust(width) for c, width in widths.items()).rstrip()
        for cells in ({c: c for c in columns}, *rows)
    ]


def _once(lines: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(lines))

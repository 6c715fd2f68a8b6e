"""Which RDMA device of a Mac leads to which other Mac, for jaccl: by the Thunderbolt cables that
`system_profiler SPThunderboltDataType -json` lists. Not run on a Mac."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ClusterError


@dataclass(frozen=True)
class Port:
    """A Thunderbolt port. device: 'en2'. own, peer: ids of its bus and of that at the other end."""

    device: str
    own: str
    peer: str | None


def ports(profile: str, devices: Mapping[str, str]) -> list[Port]:
    """Of system_profiler's JSON; devices: 'Thunderbolt 1' -> 'en2'. Raises: ValueError."""
    found = []
    for bus in json.loads(profile).get("SPThunderboltDataType", []):
        receptacle = bus.get("receptacle_1_tag", {}).get("receptacle_id_key")
        device = devices.get(f"Thunderbolt {receptacle}")
        if device and (own := bus.get("domain_uuid_key")):
            peers = [i["domain_uuid_key"] for i in bus.get("_items", []) if "domain_uuid_key" in i]
            found.append(Port(device, own, peers[0] if peers else None))
    return sorted(found, key=lambda port: port.device)


def rdma_matrix(
    hosts: Mapping[str, list[Port]], available: Mapping[str, set[str]]
) -> dict[str, tuple[Any, ...]]:
    """For each host its devices to each other host, None to itself: a name, or several where every
    two hosts have as many cables.

    Raises: ClusterError where RDMA is off, or two hosts have no cable.
    """
    for host, names in available.items():
        if not names:
            raise ClusterError(
                f"{host}: no RDMA devices; start it in recovery mode (hold the power button), run"
                " 'rdma_ctl enable' in its Terminal, or say --backend ring"
            )
    owner = {port.own: host for host, mine in hosts.items() for port in mine}
    cables: dict[tuple[str, str], list[str]] = {}
    for host, mine in hosts.items():
        for port in mine:
            if port.peer in owner and owner[port.peer] != host:
                device = f"rdma_{port.device}"
                if device in available[host]:
                    cables.setdefault((host, owner[port.peer]), []).append(device)
    pairs = [(a, b) for a in hosts for b in hosts if a != b]
    for a, b in pairs:
        if (a, b) not in cables:
            raise ClusterError(
                f"{a} and {b}: no Thunderbolt cable with RDMA between them, wanted one between"
                " every two hosts; connect them, or say --backend ring"
            )
    count = min(len(cables[pair]) for pair in pairs)

    def device(a: str, b: str) -> Any:
        if a == b:
            return None
        return cables[a, b][0] if count == 1 else cables[a, b][:count]

    return {a: tuple(device(a, b) for b in hosts) for a in hosts}

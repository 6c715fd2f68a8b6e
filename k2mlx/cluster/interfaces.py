"""Which of their network addresses machines should use for each other: those of the fastest cable
in a subnet that all of them are in, never those of a VPN.

The parsers read what macOS's `ifconfig` and `networksetup -listallhardwareports` print, and Linux's
`ip -d -j addr`. Written from their documented forms; nothing here was run on a Mac.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Interface, IPv4Network

from ..errors import ClusterError

SHARED = IPv4Network("100.64.0.0/10")  # of carriers by RFC 6598, and what Tailscale gives
# Tunnels, and networks that exist inside one machine, by the names that their programs give them.
VIRTUAL = re.compile(
    r"(lo|utun|tun|tap|wg|feth|ipsec|ppp|gif|stf|gre|sit|ip6tnl|vti|vnet|vmnet|vmenet|vnic|vboxnet|"
    r"cni|lxc|awdl|llw|ap|anpi|p2p|dummy|ifb|rmnet|wwan)(\d|-|$)|bridge1\d\d|zt\w{8}|"
    r"tailscale|nebula|docker|br-|veth|virbr|flannel|cali|podman|lxd|incus",
    re.IGNORECASE,
)

# What `ip -d` calls links that lead through another, whatever their names. Not veth: a container's
# only way out is one.
TUNNELS = frozenset(
    "tun wireguard ppp vxlan geneve gre gretap ip6gre ip6gretap ipip ip6tnl sit vti vti6 xfrm"
    " erspan ip6erspan bareudp gtp ovpn l2tp amt dummy ifb nlmon".split()
)


class Kind(IntEnum):
    """How an interface is connected, the best first."""

    THUNDERBOLT = 0
    ETHERNET = 1
    WIFI = 2
    VIRTUAL = 3  # tunnels, networks inside one machine, and all that nobody knows: never used

    @property
    def label(self) -> str:
        return ("Thunderbolt", "Ethernet", "Wi-Fi", "VPN or virtual")[self]


@dataclass(frozen=True)
class Interface:
    """One address of a machine. speed: Mbit/s of its link, None where it does not tell."""

    name: str
    kind: Kind
    address: IPv4Interface
    speed: int | None = None

    def __str__(self) -> str:
        speed = f", {_speed(self.speed)}" if self.speed else ""
        return f"{self.name} {self.address.ip} ({self.kind.label}{speed})"


def choose(hosts: Mapping[str, Sequence[Interface]]) -> dict[str, Interface]:
    """One interface a host, all in one subnet: that whose slowest interface is the best.

    Thunderbolt goes before Ethernet before Wi-Fi, then speed decides. A subnet in which two hosts
    have the same address is none that connects them (Docker's, say).

    Raises: ClusterError where no subnet is common to all.
    """
    found = {host: _by_network(interfaces) for host, interfaces in hosts.items()}
    common = set.intersection(*(set(networks) for networks in found.values())) if found else set()
    choices = []
    for network in common:
        chosen = {host: networks[network] for host, networks in found.items()}
        if len({interface.address.ip for interface in chosen.values()}) == len(chosen):
            choices.append((_badness(network, list(chosen.values())), chosen))
    if not choices:
        have = "; ".join(
            f"{host} has {', '.join(map(str, networks.values())) or 'none'}"
            for host, networks in found.items()
        )
        raise ClusterError(
            f"no subnet that all hosts are in, VPNs aside: {have}; connect them by a Thunderbolt or"
            " Ethernet cable and give each an address of one subnet"
        )
    return min(choices, key=lambda choice: choice[0])[1]


def reason(chosen: Interface, interfaces: Iterable[Interface]) -> str:
    """Which one was taken, and which were not: one line."""
    others = sorted(
        (i for i in interfaces if i != chosen and not i.address.ip.is_loopback),
        key=lambda i: (i.kind, i.name),
    )
    left = f"; not {', '.join(map(str, others))}" if others else ""
    return f"{chosen} in {chosen.address.network}, common to all{left}"


def from_mac(ifconfig: str, ports: str) -> list[Interface]:
    """Of what macOS prints: the interfaces that have an IPv4 address and are up."""
    devices = _ports(ports)
    found = []
    for block in re.split(r"\n(?=\S)", ifconfig):
        name, _, rest = block.partition(":")
        flags = re.search(r"<([^>]*)>", rest)
        states = flags[1].split(",") if flags else []
        if "UP" not in states or re.search(r"status: inactive", rest):
            continue
        speed = re.search(r"media:[^\n]*?(\d+(?:\.\d+)?)(G?)base", rest, re.IGNORECASE)
        rate = int(float(speed[1]) * (1000 if speed[2] else 1)) if speed else None
        kind = Kind.VIRTUAL if "POINTOPOINT" in states else _mac_kind(name, devices.get(name))
        found += [
            _interface(name, kind, f"{address}/{_prefix(int(mask, 16))}", rate)
            for address, mask in re.findall(
                r"\sinet (\S+)(?: --> \S+)? netmask (0x[0-9a-f]+)", rest
            )
        ]
    return found


def from_linux(addresses: str, speeds: str = "", wireless: str = "") -> list[Interface]:
    """Of `ip -d -j addr`, with lines 'eth0 10000' of speeds in Mbit/s and the names of Wi-Fi's.

    Raises: ValueError for what `ip` does not print.
    """
    rates = dict(line.split() for line in speeds.splitlines() if len(line.split()) == 2)
    found = []
    for link in json.loads(addresses):
        name, flags = link["ifname"], link.get("flags", ())
        if "UP" not in flags or link.get("operstate") in ("DOWN", "LOWERLAYERDOWN"):
            continue
        rate = rates.get(name, "")
        plain = link.get("link_type") == "ether" and "POINTOPOINT" not in flags
        plain &= link.get("linkinfo", {}).get("info_kind") not in TUNNELS
        found += [
            _interface(
                name,
                _linux_kind(name, wireless.split()) if plain else Kind.VIRTUAL,
                f"{entry['local']}/{entry['prefixlen']}",
                int(rate) if rate.isdigit() and int(rate) else None,
            )
            for entry in link.get("addr_info", ())
            if entry.get("family") == "inet"
        ]
    return found


def devices(ports: str) -> dict[str, str]:
    """Of `networksetup -listallhardwareports`: the device of each port, 'Thunderbolt 1': 'en2'."""
    return {port: device for device, port in _ports(ports).items()}


def _interface(name: str, kind: Kind, address: str, speed: int | None) -> Interface:
    parsed = IPv4Interface(address)
    if parsed.ip in SHARED or parsed.ip.is_loopback or VIRTUAL.match(name):
        kind = Kind.VIRTUAL
    return Interface(name, kind, parsed, speed)


def _mac_kind(device: str, port: str | None) -> Kind:
    """By the name of its hardware port; what is none (a tunnel, a bridge of virtual machines) is
    virtual. A 'Thunderbolt Ethernet Slot 1' is an adapter for Ethernet."""
    if port is None:
        return Kind.VIRTUAL
    if re.fullmatch(r"Thunderbolt (Bridge|\d+)", port):
        return Kind.THUNDERBOLT
    if re.search(r"Wi-?Fi|AirPort", port, re.IGNORECASE):
        return Kind.WIFI
    return Kind.ETHERNET if re.search(r"Ethernet|\bLAN\b|10G", port) else Kind.VIRTUAL


def _linux_kind(name: str, wireless: Sequence[str]) -> Kind:
    if name in wireless or re.match(r"wl", name):
        return Kind.WIFI
    return Kind.THUNDERBOLT if re.match(r"thunderbolt", name) else Kind.ETHERNET


def _ports(text: str) -> dict[str, str]:
    """The port of each device: 'en2': 'Thunderbolt 1'."""
    return {
        device.strip(): port.strip()
        for port, device in re.findall(r"Hardware Port: (.*)\n\s*Device: (.*)", text)
    }


def _prefix(mask: int) -> int:
    return mask.bit_count()


def _by_network(interfaces: Iterable[Interface]) -> dict[IPv4Network, Interface]:
    """The best interface in each subnet."""
    best: dict[IPv4Network, Interface] = {}
    for interface in sorted(interfaces, key=_order, reverse=True):
        if interface.kind != Kind.VIRTUAL:
            best[interface.address.network] = interface
    return best


def _order(interface: Interface) -> tuple[Kind, int, str, IPv4Interface]:
    return interface.kind, -(interface.speed or 0), interface.name, interface.address


def _badness(network: IPv4Network, chosen: Sequence[Interface]) -> tuple:
    """A link-local subnet goes last among equals: two that have addresses in it need not be
    connected. And they hardly are where one is Thunderbolt and the other is not: that goes after
    all other cables, before Wi-Fi."""
    kinds = {interface.kind for interface in chosen}
    return (
        max(kinds),
        network.is_link_local and len(kinds) > 1,
        -min(interface.speed or 0 for interface in chosen),
        sum(interface.kind for interface in chosen),
        network.is_link_local,
        network,
    )


def _speed(rate: int) -> str:
    return f"{rate / 1000:g} Gbit/s" if rate >= 1000 else f"{rate} Mbit/s"

"""Which of their addresses the machines should use for each other.

A cable in a subnet that all of them are in: Thunderbolt before Ethernet; Wi-Fi where there is no
such cable; never a VPN, nor what only looks like a network (containers, virtual machines).

What macOS prints is read as its manual pages and public transcripts show it; not run on a Mac.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ClusterError

THUNDERBOLT, ETHERNET, WIFI, VPN, OTHER = "Thunderbolt", "Ethernet", "Wi-Fi", "VPN", "virtual"
ORDER = (THUNDERBOLT, ETHERNET, WIFI)  # best first; what is not here is never used

# Prints what `parse` reads, on macOS and on Linux.
SCRIPT = """
echo "== system"; uname
if [ "$(uname)" = Darwin ]; then
  echo "== ifconfig"; ifconfig
  echo "== ports"; networksetup -listallhardwareports
  echo "== memory"; sysctl -n hw.memsize
  echo "== chip"; sysctl -n machdep.cpu.brand_string
else
  echo "== addr"; ip -j addr
  echo "== links"
  for d in /sys/class/net/*; do
    w=cable; [ -d "$d/wireless" ] && w=wireless
    echo "$(basename "$d") $w $(cat "$d/speed" 2>/dev/null || echo 0)"
  done
  echo "== memory"; awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo
fi
"""

_VPN_NAMES = re.compile(r"(utun|tun|tap|wg|tailscale|ts|ppp|ipsec|zt|nordlynx|proton|gpd)\d*\b")
_VIRTUAL_NAMES = re.compile(
    r"(lo|docker|br-|virbr|vnet|vmnet|vboxnet|cni|flannel|cali|podman|lxc|lxd|awdl|llw|anpi|ap\d"
    r"|gif|stf|bridge\d\d|XHC)"
)
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # carriers' and Tailscale's
_MEDIA = re.compile(r"media:.*?\b(\d+)(G?)base", re.I)


@dataclass(frozen=True)
class Interface:
    """An IPv4 address of a machine. address: with its prefix, "10.0.0.1/24". speed: Mbit/s, 0 where
    the system does not tell."""

    name: str
    address: str
    kind: str
    speed: int = 0

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(self.address).network

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    def __str__(self) -> str:
        speed = f", {self.speed / 1000:g} Gbit/s" if self.speed else ""
        return f"{self.ip} ({self.name}, {self.kind}{speed})"


@dataclass(frozen=True)
class Machine:
    """memory: bytes, 0 where unknown. chip: Apple's name of it, or ''."""

    interfaces: tuple[Interface, ...]
    memory: int = 0
    chip: str = ""


def parse(text: str) -> Machine:
    """What SCRIPT printed. Raises: ClusterError for something else."""
    parts = {
        name: body.strip()
        for name, body in re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", text, re.M | re.S)
    }
    try:
        if parts["system"] == "Darwin":
            found = _mac(parts["ifconfig"], parts["ports"])
        else:
            found = _linux(parts["addr"], parts["links"])
        memory = int(float(parts.get("memory") or 0))
    except (KeyError, ValueError, TypeError) as error:
        raise ClusterError(
            f"its interfaces: got {text[:80]!r} ({error!r}), wanted what ifconfig or ip print"
        ) from error
    chip = parts.get("chip", "")
    return Machine(tuple(found), memory, chip if chip.startswith("Apple") else "")


def choose(machines: Mapping[str, Machine]) -> dict[str, Interface]:
    """The address of each machine, all in one subnet.

    Raises: ClusterError where no subnet has a usable address of every machine.
    """
    usable = {
        host: [i for i in machine.interfaces if i.kind in ORDER]
        for host, machine in machines.items()
    }
    found: list[tuple[tuple[int, int, str], dict[str, Interface]]] = []
    for network in {i.network for each in usable.values() for i in each}:
        chosen = {
            host: min((i for i in each if i.network == network), key=_worth, default=None)
            for host, each in usable.items()
        }
        complete = {host: one for host, one in chosen.items() if one is not None}
        distinct = len({one.ip for one in complete.values()}) == len(machines)
        if len(complete) == len(machines) and distinct:
            slowest = max(_worth(one) for one in complete.values())
            found.append(((*slowest, str(network)), complete))
    if not found:
        seen = "; ".join(
            f"{host}: {', '.join(map(str, machine.interfaces)) or 'none'}"
            for host, machine in machines.items()
        )
        raise ClusterError(
            f"no network that all hosts are in, by cable or Wi-Fi (a VPN is not used): got {seen};"
            " wanted addresses in one subnet; connect them, or write the host file by hand"
        )
    return min(found, key=lambda one: one[0])[1]


def _worth(interface: Interface) -> tuple[int, int]:
    """Less is better."""
    return ORDER.index(interface.kind), -interface.speed


def _linux(addresses: str, links: str) -> list[Interface]:
    known = {
        name: (kind, max(int(speed), 0)) for name, kind, speed in map(str.split, links.splitlines())
    }
    found = []
    for link in json.loads(addresses):
        name = link["ifname"].partition("@")[0]
        medium, speed = known.get(name, ("cable", 0))
        port = WIFI if medium == "wireless" or name.startswith("wl") else ETHERNET
        port = THUNDERBOLT if name.startswith("thunderbolt") else port
        for one in link.get("addr_info", []):
            if one.get("family") == "inet" and "UP" in link.get("flags", []):
                address = f"{one['local']}/{one['prefixlen']}"
                found.append(Interface(name, address, _kind(name, address, port), speed))
    return found


def _mac(ifconfig: str, ports: str) -> list[Interface]:
    devices = dict(re.findall(r"Hardware Port: (.*)\nDevice: (\S+)", ports))
    port_of = {device: port for port, device in devices.items()}
    found = []
    for name, body in re.findall(r"^(\S+): flags=(.*?)(?=^\S|\Z)", ifconfig, re.M | re.S):
        if "status: inactive" in body or "UP" not in body.partition(">")[0]:
            continue
        port = port_of.get(name, "")
        if "Wi-Fi" in port or "AirPort" in port:
            medium = WIFI
        elif "Thunderbolt" in port and "Ethernet" not in port:
            medium = THUNDERBOLT
        else:
            medium = ETHERNET if port else OTHER
        media = _MEDIA.search(body)
        speed = int(media[1]) * (1000 if media[2] else 1) if media else 0
        for ip, mask in re.findall(r"inet (\S+) (?:-->.*?)?netmask 0x([0-9a-f]{8})", body):
            address = f"{ip}/{int(mask, 16).bit_count()}"
            found.append(Interface(name, address, _kind(name, address, medium), speed))
    return found


def _kind(name: str, address: str, port: str) -> str:
    ip = ipaddress.IPv4Interface(address).ip
    if _VPN_NAMES.match(name) or ip in _SHARED:
        return VPN
    if _VIRTUAL_NAMES.match(name) or ip.is_loopback:
        return OTHER
    return port


def summary(chosen: Mapping[str, Interface], machines: Mapping[str, Machine]) -> list[str]:
    """One line a host: what it uses, and what it has besides."""
    lines = []
    for host, one in chosen.items():
        others = [str(i) for i in machines[host].interfaces if i != one and i.kind != OTHER]
        besides = f"; not {', '.join(others)}" if others else ""
        lines.append(f"{host}: {one}{besides}")
    return lines

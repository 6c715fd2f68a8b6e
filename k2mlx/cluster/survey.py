"""What `k2mlx cluster init` asks each host, by one ssh: its addresses, memory and chip. The host
needs no Python for it. Not run on a Mac."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import ClusterError, ConfigError
from ..plan.machines import GIB, find_chip
from . import thunderbolt
from .hostfile import Host, HostFile
from .interfaces import Interface, choose, devices, from_linux, from_mac, reason
from .remote import ANSWER, Remote

SCRIPT = """
PATH=$PATH:/usr/sbin:/sbin
echo "== system"; uname -s
echo "== rdma"; ibv_devices 2>/dev/null
if [ "$(uname -s)" = Darwin ]; then
  echo "== interfaces"; ifconfig
  echo "== ports"; networksetup -listallhardwareports
  echo "== memory"; sysctl -n hw.memsize
  echo "== chip"; sysctl -n machdep.cpu.brand_string
  echo "== cores"; system_profiler SPDisplaysDataType 2>/dev/null | grep 'Number of Cores'
  echo "== thunderbolt"; system_profiler SPThunderboltDataType -json 2>/dev/null
else
  echo "== interfaces"; ip -d -j addr
  echo "== speeds"
  for d in /sys/class/net/*; do echo "${d##*/} $(cat "$d/speed" 2>/dev/null)"; done
  echo "== wireless"; for d in /sys/class/net/*/wireless; do d=${d%/wireless}; echo "${d##*/}"; done
  echo "== memory"; while read -r key kb _; do
    [ "$key" = MemTotal: ] && echo $((kb * 1024)); done </proc/meminfo
fi
echo "== end"
"""


@dataclass(frozen=True)
class Surveyed:
    """A host. memory: bytes, 0 if unknown; chip: as `k2mlx plan` knows it, or ''. rdma: the names
    of its RDMA devices. thunderbolt, devices: its cables as system_profiler's JSON, and the device
    of each port; read for jaccl alone, so that the ring does not depend on them."""

    interfaces: list[Interface]
    memory: int = 0
    chip: str = ""
    rdma: frozenset[str] = frozenset()
    thunderbolt: str = ""
    devices: Mapping[str, str] = field(default_factory=dict)


def survey(host: str) -> Surveyed:
    """Ask one host. Raises: Unreachable, ClusterError for an answer that is none."""
    done = Remote(host).run(["sh", "-c", SCRIPT], timeout=2 * ANSWER)
    parts = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== )", done.out, re.M | re.S))
    if "system" not in parts or not done.out.rstrip().endswith("== end"):
        said = (done.err or done.out).strip().splitlines()
        raise ClusterError(
            f"{host}: does not tell its addresses ({said[-1] if said else 'it said nothing'});"
            f" does 'ssh {host} ifconfig' or 'ssh {host} ip addr' work?"
        )
    try:
        return _read(parts)
    except (ValueError, KeyError, TypeError) as error:
        said = done.err.strip().splitlines()
        raise ClusterError(
            f"{host}: cannot read its addresses ({said[-1] if said else error}); wanted what"
            " ifconfig (macOS) or 'ip -j addr' (Linux, package iproute2) prints"
        ) from error


def make_hostfile(names: Sequence[str], backend: str) -> tuple[HostFile, list[str]]:
    """Ask all hosts; what their host file should be, and a line for each that says why.

    Raises: ConfigError for hosts that are too few, or named twice; ClusterError, Unreachable.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"cluster init: got {' '.join(names) or 'no hosts'}, wanted two or more different hosts"
        )
    with ThreadPoolExecutor(len(names)) as pool:
        surveyed = dict(zip(names, pool.map(survey, names), strict=True))
    chosen = choose({name: host.interfaces for name, host in surveyed.items()})
    rdma: Mapping[str, tuple] = {}
    if backend == "jaccl":
        rdma = thunderbolt.rdma_matrix(
            {name: _ports(name, host) for name, host in surveyed.items()},
            {name: set(host.rdma) for name, host in surveyed.items()},
        )
    hosts, lines = [], []
    for name, host in surveyed.items():
        memory = f"{host.memory / GIB:.4g}GB" if host.memory else ""
        address = str(chosen[name].address.ip)
        hosts.append(Host(name, (address,), rdma.get(name, ()), memory, host.chip))
        machine = f"{host.chip or 'chip unknown'}, {memory or 'memory unknown'}"
        lines.append(f"{name}: {reason(chosen[name], host.interfaces)}; {machine}")
    return HostFile(tuple(hosts), backend), lines


def _read(parts: Mapping[str, str]) -> Surveyed:
    memory = parts.get("memory", "").strip()
    size = int(memory) if memory.isdigit() else 0
    rdma = frozenset(re.findall(r"\brdma_\w+", parts.get("rdma", "")))
    if parts["system"].strip() != "Darwin":
        found = from_linux(parts["interfaces"], parts["speeds"], parts["wireless"])
        return Surveyed(found, size, rdma=rdma)
    return Surveyed(
        from_mac(parts["interfaces"], parts["ports"]),
        size,
        _chip(parts.get("chip", ""), parts.get("cores", "")),
        rdma,
        parts.get("thunderbolt", "").strip(),
        devices(parts["ports"]),
    )


def _ports(name: str, host: Surveyed) -> list[thunderbolt.Port]:
    if not host.thunderbolt:
        return []
    try:
        return thunderbolt.ports(host.thunderbolt, host.devices)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{name}: cannot read its Thunderbolt cables ({error}); wanted what 'system_profiler"
            " SPThunderboltDataType -json' prints; --backend ring does not need them"
        ) from error


def _chip(brand: str, cores: str) -> str:
    """'Apple M3 Max' with 30 GPU cores -> 'M3 Max 30-core'. Those that `k2mlx plan` does not know
    are left out: it could not read the file."""
    name = brand.strip().removeprefix("Apple ")
    count = re.search(r"Cores: (\d+)", cores)
    for label in (f"{name} {count[1]}-core" if count else name, name):
        try:
            find_chip(label)
        except ConfigError:
            continue
        return label
    return ""

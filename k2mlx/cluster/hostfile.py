"""The file that says which machines work together, as mlx.distributed_config writes it:

    {"backend": "ring", "envs": [], "hosts": [{"ssh": "studio1", "ips": ["10.0.0.1"], "rdma": []}]}

or the list of hosts alone. An entry may also say "memory" and "chip", which mlx ignores and
`k2mlx plan` reads.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..home import write_private

NAME = re.compile(r"(?!-)[\w.@:%-]{1,255}")  # what ssh would take for an option is no name
LOCAL = "127.0.0.1"  # what mlx.launch starts without ssh


@dataclass(frozen=True)
class Host:
    """ssh: what ssh is told. ips: its addresses for the others, best first. rdma: its devices to
    each other host, for jaccl. memory, chip: as `k2mlx plan` reads them, such as "512GB"."""

    ssh: str
    ips: tuple[str, ...] = ()
    rdma: tuple[Any, ...] = ()
    memory: str = ""
    chip: str = ""


@dataclass(frozen=True)
class HostFile:
    """hosts: in the order of the ranks. envs: "KEY=VALUE", set on each."""

    hosts: tuple[Host, ...]
    backend: str = "ring"
    envs: tuple[str, ...] = ()

    def only(self, hosts: list[Host]) -> HostFile:
        """Some of the hosts. Their RDMA devices are told by rank, so those are picked too."""
        places = [self.hosts.index(host) for host in hosts]
        kept = [
            replace(host, rdma=tuple(host.rdma[place] for place in places)) if host.rdma else host
            for host in hosts
        ]
        return replace(self, hosts=tuple(kept))

    def to_json(self) -> str:
        return json.dumps(
            {"backend": self.backend, "envs": self.envs, "hosts": [_entry(h) for h in self.hosts]},
            indent=2,
        )


def read_hostfile(path: Path) -> HostFile:
    """Raises: ConfigError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; wanted a host file, which 'k2mlx cluster init' writes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not JSON ({error}); write it anew with 'k2mlx cluster init'"
        ) from error
    if isinstance(content, list):
        content = {"hosts": content}
    hosts = content.get("hosts") if isinstance(content, dict) else None
    if not isinstance(hosts, list) or not hosts:
        raise ConfigError(f"{path}: got no hosts, wanted a list of them; see 'k2mlx cluster init'")
    backend, envs = content.get("backend") or "ring", content.get("envs") or []
    if backend not in ("ring", "jaccl", "jaccl-ring"):
        raise ConfigError(f"{path}: got backend {backend!r}, wanted ring, jaccl or jaccl-ring")
    if not _strings(envs):
        raise ConfigError(f"{path}: got envs {envs!r}, wanted a list of 'KEY=VALUE'")
    return HostFile(tuple(_host(path, r, host) for r, host in enumerate(hosts)), backend, (*envs,))


def write_hostfile(path: Path, hostfile: HostFile, force: bool = False) -> None:
    """Raises: ConfigError where another one would be overwritten."""
    content = hostfile.to_json() + "\n"
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, wanted a file to write; give another --out")
    if path.exists() and not force and path.read_bytes() != content.encode():
        raise ConfigError(f"{path}: is there, and says something else; give --force to replace it")
    write_private(path, content)


def _host(path: Path, rank: int, entry: Any) -> Host:
    ssh = entry.get("ssh") if isinstance(entry, dict) else None
    if not isinstance(ssh, str) or not NAME.fullmatch(ssh):
        raise ConfigError(f'{path}: host {rank}: got "ssh": {ssh!r}, wanted a name for ssh')
    ips, rdma = entry.get("ips") or [], entry.get("rdma") or []
    if not _strings(ips) or not isinstance(rdma, list):
        raise ConfigError(f"{path}: {ssh}: got ips {ips!r}, wanted a list of addresses")
    return Host(ssh, (*ips,), (*rdma,), str(entry.get("memory", "")), str(entry.get("chip", "")))


def _entry(host: Host) -> dict[str, Any]:
    known = {"memory": host.memory, "chip": host.chip}
    entry = {"ssh": host.ssh, "ips": host.ips, "rdma": host.rdma}
    return entry | {key: value for key, value in known.items() if value}


def _strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)

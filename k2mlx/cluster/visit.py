"""What `k2mlx cluster check` runs on each host.

    python -m k2mlx.cluster.visit facts [MODEL]          versions, memory, the model, as JSON
    python -m k2mlx.cluster.visit serve ADDRESS          answer one measurement; prints the port
    python -m k2mlx.cluster.visit measure ADDRESS PORT   round trip and bandwidth to it, as JSON

The secret that opens a measurement is the first line of standard input. What macOS tools say is not
run on a Mac.
"""

from __future__ import annotations

import hmac
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

WAIT = 20.0  # seconds for the other end
TRIPS = 50
BYTES = 64 << 20
TIME = 2.0  # seconds at most for the bandwidth
PIECE = 1 << 18
FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"


def main(argv: list[str]) -> int:
    match argv:
        case ["facts", *model]:
            print(json.dumps(_facts(model[0] if model else None)))
        case ["serve", address]:
            _serve(address, sys.stdin.readline().strip())
        case ["measure", address, port]:
            print(json.dumps(_measure(address, int(port), sys.stdin.readline().strip())))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _facts(model: str | None) -> dict[str, Any]:
    from importlib.metadata import version

    from ..errors import K2Error
    from ..generate.memory import free_memory
    from ..home import find_model
    from ..parallel.facts import facts
    from ..parallel.split import this_member

    member = this_member(free_memory())
    found: dict[str, Any] = {
        "k2mlx": version("k2mlx"),
        "mlx": version("mlx"),
        "python": platform.python_version(),
        "capacity": member.capacity,
        "system": platform.system(),
        "problems": _problems() if platform.system() == "Darwin" else [],
        "rdma": _rdma(),
    }
    if model is not None:
        try:
            found["facts"] = facts(find_model(model), member)
        except (K2Error, OSError) as error:
            found["model"] = str(error)
    return found


def _problems() -> list[str]:
    """macOS's own, each with what to do."""
    found = []
    if re.search(r"enabled|State = [12]", _said(FIREWALL, "--getglobalstate")):
        allowed = _said(FIREWALL, "--getappblocked", sys.executable)
        if "permitted" not in allowed:
            found.append(
                f"the firewall is on: 'sudo {FIREWALL} --add {sys.executable}' lets others in"
            )
    return found


def _rdma() -> str:
    """ "available", or the command that makes it so, or '' where it is not known of."""
    if platform.system() == "Darwin":
        if not shutil.which("rdma_ctl"):
            return ""
        enabled = "enabled" in _said("rdma_ctl", "status").lower()
        return "available" if enabled else "boot into recovery and run 'rdma_ctl enable'"
    return "available" if _said("ibv_devices").count("\n") > 2 else ""


def _said(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=WAIT).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _serve(address: str, secret: str) -> None:
    """Echo what comes in messages of one byte, then take what comes until the end, and say when."""
    with socket.create_server((address, 0)) as door:
        print(door.getsockname()[1], flush=True)
        limit = time.monotonic() + WAIT
        while time.monotonic() < limit:
            door.settimeout(max(limit - time.monotonic(), 0.001))
            try:
                link, _ = door.accept()
            except TimeoutError:
                return
            with link:
                link.settimeout(WAIT)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                shown = link.recv(len(secret))
                if not secret or not hmac.compare_digest(shown, secret.encode()):
                    continue
                for _ in range(TRIPS):
                    link.sendall(link.recv(1))
                while link.recv(PIECE):
                    pass
                link.sendall(b"!")
                return


def _measure(address: str, port: int, secret: str) -> dict[str, Any]:
    """round_trip: seconds, the median; bandwidth: bytes a second; error: if there is none."""
    try:
        with socket.create_connection((address, port), WAIT) as link:
            link.settimeout(WAIT)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.sendall(secret.encode())
            trips = []
            for _ in range(TRIPS):
                began = time.perf_counter()
                link.sendall(b".")
                link.recv(1)
                trips.append(time.perf_counter() - began)
            began, sent = time.perf_counter(), 0
            while sent < BYTES and time.perf_counter() - began < TIME:
                link.sendall(bytes(PIECE))
                sent += PIECE
            link.shutdown(socket.SHUT_WR)
            link.recv(1)
            seconds = time.perf_counter() - began
    except OSError as error:
        return {"error": error.strerror or str(error) or type(error).__name__}
    return {"round_trip": sorted(trips)[TRIPS // 2], "bandwidth": sent / seconds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

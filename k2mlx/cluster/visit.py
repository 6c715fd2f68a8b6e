"""What `k2mlx cluster check` runs on a host: python -m k2mlx.cluster.visit [MODEL]

One line of JSON: versions and model (parallel/facts.py), free memory, and what of macOS could stand
in the way. macOS's commands are read by their documented output; this was not run on a Mac.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"


def visit(model: str | None) -> dict[str, Any]:
    """facts: as ranks compare them; without a model those of none. model: its folder; error: why
    there is none. free: bytes. firewall: '' where there is none that we know."""
    from ..errors import K2Error
    from ..generate.memory import free_memory
    from ..home import find_model
    from ..parallel.facts import facts
    from ..parallel.split import this_member

    told: dict[str, Any] = {"system": platform.system(), "free": free_memory()}
    told |= {"model": None, "error": None, "firewall": "", "rdma": rdma()}
    if told["system"] == "Darwin":
        told["firewall"] = firewall()
    member = this_member(told["free"])
    with tempfile.TemporaryDirectory() as nothing:
        folder = Path(nothing)
        try:
            if model is not None:
                folder = find_model(model)
                told["model"] = str(folder.resolve())
            told["facts"] = facts(folder, member)
        except (K2Error, OSError) as error:
            told["error"] = str(error)
            told["facts"] = facts(Path(nothing), member)
    if model is not None and not told["error"] and not told["facts"]["weights"]:
        told["error"] = f"{told['model']}: holds no weights (*.safetensors)"
    return told


def firewall() -> str:
    """macOS's application firewall: 'off', 'on', 'blocks all' or 'unknown'."""
    state = _say(FIREWALL, "--getglobalstate")
    if "State = 0" in state or "disabled" in state:
        return "off"
    if "enabled" not in state and not re.search(r"State = [12]", state):
        return "unknown"
    # 'Block all DISABLED!' before macOS 15, '... block all state set to disabled.' since
    blocking = _say(FIREWALL, "--getblockall").lower()
    closed = "State = 2" in state or ("block" in blocking and "disabled" not in blocking)
    return "blocks all" if closed else "on"


def rdma() -> dict[str, Any]:
    """devices: such as 'rdma_en2'. capable: whether this macOS has the command that enables it.
    enabled: what that says, None where it says nothing."""
    devices = sorted(set(re.findall(r"\brdma_\w+", _say("ibv_devices"))))
    status = _say("rdma_ctl", "status").lower()
    enabled = None if not status else "enabled" in status
    return {"devices": devices, "capable": bool(status), "enabled": enabled}


def _say(*command: str) -> str:
    """What a command prints; '' where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    print(json.dumps(visit(sys.argv[1] if len(sys.argv) > 1 else None)))

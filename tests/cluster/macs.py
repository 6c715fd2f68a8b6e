"""Hosts for tests: an `ssh` that runs the command here, and the commands of two Mac Studios, which
print what is in samples/."""

import os
from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
# As ssh, but the command runs here, with the host's own programs before others. A host is down
# while there is a file for it.
SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
[ -e "$HOSTS/$1.down" ] && { echo "ssh: connect to host $1: No route to host" >&2; exit 255; }
PATH="$HOSTS/$1:$PATH"; export PATH
shift
exec bash -c "$*"
"""
PROGRAMS = {
    "uname": "echo Darwin",
    "ifconfig": "cat {samples}/ifconfig",
    "networksetup": "cat {samples}/networksetup",
    "ibv_devices": "cat {samples}/ibv_devices",
    "sysctl": "case $2 in hw.memsize) echo 549755813888;; *) echo Apple M3 Ultra;; esac",
    "system_profiler": "case $1 in SPThunderboltDataType) cat {samples}/thunderbolt.json;; "
    "*) echo '      Total Number of Cores: 80';; esac",
}


def place_ssh(folder, monkeypatch):
    """An ssh in PATH; folder/NAME holds the programs of host NAME."""
    write(folder / "ssh-bin" / "ssh", SSH)
    monkeypatch.setenv("HOSTS", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'ssh-bin'}{os.pathsep}{os.environ['PATH']}")


def place_mac(folder, name, **programs):
    """A Mac of samples/NAME; `programs` replace its own."""
    for program, body in (PROGRAMS | programs).items():
        text = body.replace("{samples}", str(SAMPLES / name))
        write(folder / name / program, f"#!/bin/sh\n{text}\n")


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)

"""A stand-in for ssh that runs the command on this machine."""

import os

import pytest

from tests.test_house import ROOT

SSH = """#!/bin/sh
# A host is down while there is a file for it; NAME.env, if there is one, is sourced first.
while [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
[ -e "$HOSTS/$1.down" ] && { echo "connect to host $1: No route to host" >&2; exit 255; }
[ -e "$HOSTS/$1.env" ] && . "$HOSTS/$1.env"
shift
exec bash -c "$*"
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """The folder that says which hosts are down."""
    monkeypatch.setenv("K2MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOSTS", str(tmp_path))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"ssh": SSH, "stty": "#!/bin/sh"}.items():  # there is no terminal
        (programs / name).write_text(text + "\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path

"""What tests of `cluster run` stand on: a home of their own, and an ssh that runs commands here."""

import pytest

from tests.cluster.macs import place_ssh, write
from tests.test_house import ROOT


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """The folder that says which hosts are down."""
    monkeypatch.setenv("K2MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place_ssh(tmp_path, monkeypatch)
    write(tmp_path / "ssh-bin" / "stty", "#!/bin/sh\n")  # there is no terminal
    return tmp_path

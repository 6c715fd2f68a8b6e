"""The seam to macOS: what is asked of it, and that it is undone; on a Mac also that it is done."""

import subprocess
import sys

import mlx.core as mx
import pytest

from k2mlx.generate import mac
from k2mlx.generate.sampling import Sampling


class FakeMac:
    """Records what is asked of MLX and of the system."""

    def __init__(self, monkeypatch, size=1 << 40):
        self.limits, self.started, self.running = [], [], 0
        monkeypatch.setattr(mac.sys, "platform", "darwin")
        monkeypatch.setattr(mac.mx.metal, "is_available", lambda: True)
        monkeypatch.setattr(
            mac.mx, "device_info", lambda: {"max_recommended_working_set_size": size}
        )
        monkeypatch.setattr(mac.mx, "set_wired_limit", self._set)
        monkeypatch.setattr(mac.subprocess, "Popen", self._start)

    def _set(self, limit):
        self.limits.append(limit)
        return 7

    def _start(self, command):
        self.started.append(command)
        self.running += 1
        return self

    def terminate(self):
        self.running -= 1

    def wait(self):
        pass


def test_it_is_done_and_undone(monkeypatch):
    fake = FakeMac(monkeypatch)
    with pytest.raises(KeyError), mac.held(wired=True, awake=True):
        assert fake.limits == [1 << 40] and fake.running == 1
        assert fake.started[0][:2] == ["/usr/bin/caffeinate", "-i"]
        raise KeyError("whatever happens while it serves")
    assert fake.limits == [1 << 40, 7] and fake.running == 0


@pytest.mark.parametrize(("wired", "awake"), [(True, False), (False, True), (False, False)])
def test_each_is_off_on_request(monkeypatch, wired, awake):
    fake = FakeMac(monkeypatch)
    with mac.held(wired=wired, awake=awake):
        assert bool(fake.limits) == wired and bool(fake.started) == awake


def test_a_system_that_refuses_is_one_line_and_no_error(monkeypatch, capsys):
    fake = FakeMac(monkeypatch)

    def refuse(*_):
        raise RuntimeError("needs macOS 15")

    def missing(*_):
        raise FileNotFoundError("no caffeinate")

    monkeypatch.setattr(mac.mx, "set_wired_limit", refuse)
    monkeypatch.setattr(mac.subprocess, "Popen", missing)
    with mac.held(wired=True, awake=True):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "k2mlx: weights may be swapped out: needs macOS 15",
        "k2mlx: this Mac may fall asleep: no caffeinate",
    ]
    assert not fake.limits


def test_an_engine_holds_while_it_serves(monkeypatch, make_engine):
    """From loading to closing, also in the options' other value."""
    fake = FakeMac(monkeypatch)
    engine = make_engine()
    list(engine.submit([30, 31], Sampling(max_tokens=2)))
    assert fake.limits == [1 << 40] and fake.running == 1
    engine.close()
    assert fake.limits == [1 << 40, 7] and fake.running == 0
    off = make_engine(wired=False, awake=False)
    list(off.submit([30, 31], Sampling(max_tokens=2)))
    assert fake.limits == [1 << 40, 7] and len(fake.started) == 1


def test_elsewhere_nothing_is_asked(monkeypatch):
    if sys.platform == "darwin":
        pytest.skip("this is a Mac")

    def never(*_):
        raise AssertionError("asked")

    monkeypatch.setattr(subprocess, "Popen", never)
    with mac.held(wired=True, awake=True):
        pass


@pytest.mark.metal
def test_on_a_mac():
    before = mx.set_wired_limit(0)
    with mac.held(wired=True, awake=True):
        found = subprocess.run(["pmset", "-g", "assertions"], capture_output=True, text=True)
        assert "caffeinate" in found.stdout
    assert mx.set_wired_limit(before) == 0

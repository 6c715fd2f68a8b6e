"""`k2mlx pull` as a program: killed, interrupted, and a model that runs after it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k2mlx.cli import main
from k2mlx.cli.progress import Display, Report
from k2mlx.progress import Progress
from tests.folders import write_folder
from tests.hub.conftest import NEEDED, fetch, hub, model_files, shard_name  # noqa: F401  fixtures
from tests.hub.loopback import Fault

SHARDS = [shard_name(i) for i in range(3)]


@pytest.fixture
def start(hub, tmp_path):  # noqa: F811
    """Starts the command as a process of its own, against the hub on loopback."""
    started = []
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "K2MLX_HOME": str(tmp_path / "home"),
    }

    def start(*args):
        command = [sys.executable, "-m", "k2mlx", "pull", hub.repo, *args]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def parts(tmp_path):
    """Sizes of the files under way, by name."""
    found = (tmp_path / "home").rglob(".*.part")
    return {re.sub(r"^\.|\.[0-9a-f]{12}\.part$", "", p.name): p.stat().st_size for p in found}


def goes_on(hub, start, here):  # noqa: F811
    """Run it again, and prove that it asks only for what is missing."""
    hub.slow = 0.0
    hub.served.clear()
    out, err = start("--json").communicate(timeout=60)
    pulled = json.loads(out)
    files = model_files()
    for name in NEEDED:
        assert (Path(pulled["path"]) / name).read_bytes() == files[name]
    for name, size in here.items():
        assert [served.range for served in hub.gets(name)] == [f"bytes={size}-"] * bool(size)
        assert hub.sent(name) == len(files[name]) - size
    assert err.count("Traceback") == 0


def test_a_killed_pull_goes_on(hub, start, tmp_path):  # noqa: F811
    hub.slow = 0.02
    process = start()
    wait_for(lambda: all(hub.sent(name) > 60_000 for name in SHARDS))
    process.kill()
    process.communicate()
    here = parts(tmp_path)
    assert all(here[name] > 20_000 for name in SHARDS)
    goes_on(hub, start, here)


@pytest.mark.parametrize("stalls", [False, True])
def test_an_interrupt_says_that_it_can_go_on(hub, start, tmp_path, stalls):  # noqa: F811
    hub.slow = 0.02
    if stalls:
        for name in SHARDS:
            hub.fail(name, Fault("stall", 65_536))
    process = start()
    wait_for(lambda: all(hub.sent(name) > 60_000 for name in SHARDS))
    time.sleep(0.3 * stalls)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5  # the hub on loopback stalls for ten
    assert process.returncode == 130
    assert out == ""
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"k2mlx: interrupted at .* of \d+.\d kB, .*; the same command goes on", last
    )
    assert "Traceback" not in err
    (folder,) = (tmp_path / "home" / "models").iterdir()
    assert folder.name.endswith(".partial")
    goes_on(hub, start, parts(tmp_path))


def test_a_pulled_model_runs_by_its_name(hub, capsys, tmp_path):  # noqa: F811
    import mlx.core as mx

    from k2mlx.load import load

    folder = write_folder(tmp_path / "tiny")
    hub.commit({path.name: path.read_bytes() for path in folder.iterdir()})
    assert main(["pull", hub.repo]) == 0
    loaded, original = load(hub.repo), load(folder)
    ids = mx.array([[1, 5, 9]])
    assert mx.array_equal(loaded.model(ids), original.model(ids))


def test_what_it_prints(hub, capsys):  # noqa: F811
    assert main(["pull", hub.repo, "--split", "2,3", "--rank", "0"]) == 0
    out, err = capsys.readouterr()
    path, did, saved = out.splitlines()
    assert path.endswith(hub.branches["main"][:12])
    assert re.search(r"6 files, \d+\.\d kB, of which \d+\.\d kB came over the network; all", did)
    assert re.fullmatch(r"saved \d+\.\d kB: 2 shards that only other ranks need", saved)
    assert err.count("\n") <= 3
    assert main(["pull", hub.repo, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["files"], found["skipped_bytes"]) == (path, len(NEEDED), 0)


def test_failures_are_one_line(hub, capsys):  # noqa: F811
    hub.always["info"] = Fault("status", status=404, headers={"X-Error-Code": "RepoNotFound"})
    assert main(["pull", "moonshot/no-such"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    advice = "check the name, and HF_TOKEN if it is private"
    assert err == f"k2mlx: moonshot/no-such: not found (404); {advice}\n"
    assert main(["pull", "a/b", "--split", "31,x", "--rank", "0"]) == 2
    assert "split: got '31,x', wanted layers of each machine" in capsys.readouterr().err


class Terminal:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_report_goes_on_from_an_earlier_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = Terminal(True)
    report = Report("converted", out)  # ty: ignore[invalid-argument-type]
    for seconds, done in ((0, 4), (10, 5), (0.01, 5.1), (9.99, 6), (10, 9.9), (0.01, 10)):
        now[0] += seconds
        report(round(done * 10**9), 10**10, "a file")
    lines = out.text.replace("\r", "\n").splitlines()
    assert [line.strip() for line in lines if line] == [
        "converted 4.0 GB of 10.0 GB, 0 B/s, waiting",
        "converted 5.0 GB of 10.0 GB, 100.0 MB/s, 0:00:50 left",
        "converted 6.0 GB of 10.0 GB, 100.0 MB/s, 0:00:40 left",
        "converted 9.9 GB of 10.0 GB, 196.7 MB/s, 0:00:01 left",
        "converted 10.0 GB of 10.0 GB, 199.9 MB/s",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_and_few_elsewhere(terminal):
    out = Terminal(terminal)
    display = Display(out)  # ty: ignore[invalid-argument-type]
    progress = Progress(10**9, 0, 3)
    for i in range(100):
        progress.add(10**7)
        if i == 50:
            progress.notes.append("shard 2 stalled")
        display(progress)
    display.close()
    lines = out.text.splitlines() if not terminal else out.text.split("\n")
    assert "shard 2 stalled" in lines
    assert len([line for line in lines if " of 1.0" in line]) == (2 if terminal else 1)
    if terminal:
        assert "1.0 GB of 1.0 GB" in lines[-2].split("\r")[-1]
        assert lines[-1] == ""

"""`k2mlx cluster run`: exit codes that mlx.launch does not tell, and ranks that are lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from k2mlx.cluster import launch, rank
from k2mlx.cluster.hostfile import Host, HostFile
from k2mlx.cluster.supervise import Settings, model_of, supervise
from k2mlx.home import home_path
from tests.ports import free_ports
from tests.test_house import ROOT

pytestmark = pytest.mark.usefixtures("ssh")


MODEL = {"model": "models/k2-nano"}


class Supervised:
    """supervise() on a thread, and what it says."""

    def __init__(self, folder, hosts, command=None, **settings):
        self.folder, self.said, self.stop = folder, [], threading.Event()
        chosen = Settings(
            sys.executable, port=free_ports(4), **({"model": "models/k2-nano"} | settings)
        )
        toy = [sys.executable, "-m", "tests.cluster.toy", str(folder)]
        hostfile = HostFile(tuple(Host(name, ("127.0.0.1",)) for name in hosts))
        self._arguments = (hostfile, command or toy, chosen, self.said.append, self.stop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        self.code = supervise(*self._arguments)

    def processes(self, rank):
        """Of a rank: its own and that which watches over it."""
        path, limit = self.folder / f"{rank}.pid", time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < limit, "the rank has not started"
            time.sleep(0.05)
        return [int(pid) for pid in path.read_text().split()]

    def ended(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert not list((home_path() / "cluster").glob("*")), "something is left over"
        return self.code

    def log(self):
        return sorted((self.folder / "log").read_text().splitlines())


def gone(pids):
    return all(not rank._started(pid) for pid in pids)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([sys.executable, "-c", "pass"], 0),
        ([sys.executable, "-c", "import os; exit(int(os.environ['MLX_RANK']))"], 1),
        ([sys.executable, "-c", "import os; exit(2 * int(os.environ['MLX_RANK']))"], 2),
        (["no-such-program"], 2),
    ],
)
def test_the_exit_code_is_that_of_the_ranks(tmp_path, command, code):
    run = Supervised(tmp_path, ["127.0.0.1"] * 2, command, retries=0)
    assert run.ended() == code


def test_output_is_passed_on_without_the_ranks_own_lines(tmp_path, capfdbinary):
    code = "import sys; sys.stdout.write('a' * 20000 + 'no end of line')"
    run = Supervised(tmp_path, ["127.0.0.1"] * 2, [sys.executable, "-c", code], retries=0)
    assert run.ended() == 0
    out = capfdbinary.readouterr().out
    assert out.count(b"a") == 40000
    assert out.count(b"no end of line") == 2
    assert rank.MARK.encode() not in out


def test_a_killed_rank_is_started_again(tmp_path):
    run = Supervised(tmp_path, ["127.0.0.1", "two"])
    (own, watcher), others = run.processes(1), run.processes(0)
    (tmp_path / "again").touch()
    os.kill(own, signal.SIGKILL)
    assert run.ended() == 0
    assert "rank 1 (two) ended with code 137" in run.said[0]
    assert run.said[1:] == ["starting again on 127.0.0.1, two (1 of 3)"]
    assert run.log() == ["rank 0 of 2"] * 2 + ["rank 1 of 2"] * 2
    assert gone([own, watcher, *others])


def test_a_killed_watcher_takes_its_rank_along(tmp_path):
    run = Supervised(tmp_path, ["127.0.0.1", "two"], retries=0)
    own, watcher = run.processes(1)
    os.kill(watcher, signal.SIGKILL)
    assert run.ended() == 1
    assert gone([own, *run.processes(0)])


@pytest.mark.parametrize("both", [False, True], ids=["rank", "rank and watcher"])
def test_a_stopped_rank_is_ended_and_started_again(tmp_path, monkeypatch, both):
    monkeypatch.setattr(launch, "DRAIN", 3.0)
    run = Supervised(tmp_path, ["127.0.0.1"] * 2)
    processes = run.processes(1)
    run.processes(0)
    (tmp_path / "again").touch()
    for pid in processes[: 1 + both]:
        os.kill(pid, signal.SIGSTOP)
    assert run.ended() == 0
    assert gone(processes)
    assert len(run.log()) == 4


def test_the_end_is_asked_for_before_it_is_forced(tmp_path, capfdbinary):
    run = Supervised(tmp_path, ["127.0.0.1", "two"])
    processes = [*run.processes(0), *run.processes(1)]
    began = time.monotonic()
    run.stop.set()
    assert run.ended() == 0
    assert time.monotonic() - began < 8
    assert gone(processes)
    out = capfdbinary.readouterr().out
    assert b"rank 0 says goodbye" in out
    assert b"rank 1 says goodbye" in out
    assert run.said == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_all_ranks_in_order(tmp_path, number):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(HostFile((Host("127.0.0.1", ("127.0.0.1",)),) * 2).to_json())
    toy = [sys.executable, "-m", "tests.cluster.toy", str(tmp_path)]
    words = ["cluster", "run", "--hostfile", str(hosts), "--port", str(free_ports(4)), "--", *toy]
    process = subprocess.Popen([sys.executable, "-m", "k2mlx", *words], stdout=subprocess.PIPE)
    limit = time.monotonic() + 30
    while not all((tmp_path / f"{r}.pid").exists() for r in range(2)):
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert sorted(out.splitlines()) == [b"rank 0 says goodbye", b"rank 1 says goodbye"]
    assert gone([int(p) for r in range(2) for p in (tmp_path / f"{r}.pid").read_text().split()])


def test_a_closed_terminal_ends_all_ranks(tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(HostFile((Host("127.0.0.1", ("127.0.0.1",)),) * 2).to_json())
    toy = [sys.executable, "-m", "tests.cluster.toy", str(tmp_path)]
    words = ["cluster", "run", "--hostfile", str(hosts), "--port", str(free_ports(4)), "--", *toy]
    master, slave = os.openpty()
    own_terminal = (  # setsid, then the terminal is that of the session
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(1, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, '-m', 'k2mlx', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", own_terminal, *words], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    limit = time.monotonic() + 30
    while not all((tmp_path / f"{r}.pid").exists() for r in range(2)):
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.close(master)
    assert process.wait(30) != 0
    assert gone([int(p) for r in range(2) for p in (tmp_path / f"{r}.pid").read_text().split()])


def test_nothing_is_left_where_the_watch_itself_is_killed(tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(
        HostFile((Host("127.0.0.1", ("127.0.0.1",)), Host("two", ("127.0.0.1",)))).to_json()
    )
    toy = [sys.executable, "-m", "tests.cluster.toy", str(tmp_path)]
    words = ["cluster", "run", "--hostfile", str(hosts), "--port", str(free_ports(4)), "--", *toy]
    with subprocess.Popen([sys.executable, "-m", "k2mlx", *words]) as process:
        limit = time.monotonic() + 30
        while not all((tmp_path / f"{r}.pid").exists() for r in range(2)):
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.kill()
    pids = [int(p) for r in range(2) for p in (tmp_path / f"{r}.pid").read_text().split()]
    limit = time.monotonic() + 20
    while not gone(pids):
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_host_that_comes_back_is_waited_for(tmp_path):
    run = Supervised(tmp_path, ["127.0.0.1", "two"], wait=30.0)
    own, _ = run.processes(1)
    down = tmp_path / "two.down"
    down.touch()
    (tmp_path / "again").touch()
    os.kill(own, signal.SIGKILL)
    limit = time.monotonic() + 30
    while not any("two does not answer" in line for line in run.said):
        assert time.monotonic() < limit, run.said
        time.sleep(0.05)
    down.unlink()
    assert run.ended() == 0
    assert run.log() == ["rank 0 of 2"] * 2 + ["rank 1 of 2"] * 2


@pytest.mark.parametrize(
    ("model", "code"), [("models/k2-nano", 0), ("kimi-k2-thinking", 1), (None, 1)]
)
def test_the_rest_goes_on_if_it_can_hold_the_model(tmp_path, model, code):
    run = Supervised(tmp_path, ["one", "two"], wait=0.2, model=model)
    own, _ = run.processes(1)
    run.processes(0)
    (tmp_path / "two.down").touch()
    (tmp_path / "again").touch()
    os.kill(own, signal.SIGKILL)
    assert run.ended() == code
    if model is None:
        assert "is not known" in run.said[-1]
    elif code:
        assert "two stays away, and one cannot hold the model" in run.said[-1]
    else:
        assert run.said[-1] == "starting again on one (1 of 3)"
        assert run.log() == ["rank 0 of 1", "rank 0 of 2", "rank 1 of 2"]


def test_starting_again_has_an_end(tmp_path):
    fails = [sys.executable, "-c", "exit(3)"]
    run = Supervised(tmp_path, ["127.0.0.1"], fails, retries=2)
    assert run.ended() == 1
    assert run.said[-1] == "gave up after 3 starts"


def test_only_the_jobs_own_processes_are_ended(tmp_path):
    """A process that has got the number of one that was recorded is left alone."""
    other = subprocess.Popen(["sleep", "60"])
    record = home_path() / "cluster" / "job.0.json"
    record.parent.mkdir(parents=True)
    record.write_text(f'[[{other.pid}, "Thu Jan  1 00:00:00 1970"], [{os.getpid()}, ""]]')
    rank.reap("job")
    assert other.poll() is None
    other.kill()
    other.wait()
    assert not record.exists()


def test_the_model_of_a_command():
    assert model_of(["python", "-m", "k2mlx", "chat"]) == "models/k2-nano"
    assert model_of(["python", "-m", "k2mlx", "chat", "--model", "a/b"]) == "a/b"
    assert model_of(["python", "-m", "k2mlx", "chat", "--model=a/b"]) == "a/b"
    assert model_of(["true"]) is None
    assert Path(ROOT, "models/k2-nano").is_dir()

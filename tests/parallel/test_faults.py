"""`python -m k2mlx` under mlx.launch, with ranks that are killed, stopped or fail at any moment."""

import json
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.parallel.marks import Marks
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")
HOST = platform.node()
NANO = str(ROOT / "models" / "k2-nano")
STAGES = ("joining", "loading", "prefill", "decode", "idle")
WITHIN = 10.0  # seconds, the issue's
# Long enough that no moment of it is the end: a prompt of several chunks, and an answer.
GENERATE = ("generate", "--raw", "--prompt", "one two three four " * 200, "--max-tokens", "800")


class Launched(Marks):
    """Ranks of rank.py under mlx.launch."""

    def __init__(self, folder, size, words, module_words=()):
        self.folder, self.size = folder, size
        start = [LAUNCH, "-n", str(size), "--backend", "ring", "--starting-port"]
        start += [str(free_ports(size)), "--", sys.executable, "-m", "tests.parallel.rank"]
        self.output = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            [*start, *module_words, folder, *words], stdin=subprocess.DEVNULL, stdout=self.output,
            stderr=self.output, cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1"},
        )  # fmt: skip

    def read(self, rank, what, within=60.0):
        """A file that a rank writes, once it has."""
        path, deadline = self.folder / f"{rank}.{what}", time.monotonic() + within
        while not path.exists():
            if time.monotonic() > deadline:
                raise AssertionError(f"rank {rank} has no {what!r} mark: {self.everything()}")
            time.sleep(0.01)
        return path.read_text()

    def everything(self):
        found = {path.name: path.read_text() for path in sorted(self.folder.iterdir())}
        return "\n".join(f"--- {name}\n{text}" for name, text in found.items())

    def close(self):
        """End what is left; a process that is stopped hears SIGTERM once it goes on."""
        for rank in range(self.size):
            path = self.folder / f"{rank}.pid"
            if path.exists() and not (self.folder / f"{rank}.code").exists():
                with suppress(ProcessLookupError):
                    os.kill(int(path.read_text()), signal.SIGCONT)
                    os.kill(int(path.read_text()), signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"mlx.launch does not end: {self.everything()}") from None
        finally:
            self.output.close()


@contextmanager
def launched(folder, size, *words, **options):
    ranks = Launched(folder, size, words, **options)
    try:
        yield ranks
    finally:
        ranks.close()
    left = [path.name for path in folder.glob("*.pid") if is_running(int(path.read_text()))]
    assert not left


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def chat():
    return "chat", "--model", NANO, "--no-browser", "--no-prefix-cache", "--port", str(free_port())


def fault(folder, size, number, stage, seed):
    """A random rank is killed or stopped at a random moment of a stage."""
    rng = random.Random(seed)
    victim = rng.randrange(size)
    words = chat() if stage == "idle" else (*GENERATE, "--model", NANO)
    with launched(folder, size, *words) as ranks:
        for rank in range(size):  # a rank that comes later is not of the group yet
            ranks.read(rank, "joining")
        ranks.read(victim, stage)
        time.sleep(rng.uniform(0, 0.6 if stage == "decode" else 0.1))
        since = time.time()
        os.kill(ranks.pid(victim), number)
        found = [ranks.ended(rank, WITHIN + 5) for rank in range(size) if rank != victim]
        told = {signal.SIGKILL: "its connection ended", signal.SIGSTOP: "nothing heard of it"}
        for code, when, lines in found:
            assert when - since < WITHIN, ranks.everything()
            assert code not in (0, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT), code
            if stage == "joining" and code == -signal.SIGTERM:
                continue  # mlx.launch was faster, and there was nothing to drain
            words = f"k2mlx: rank {victim} ({HOST}) was lost: {told[number]}"
            assert len(lines) == 1 and lines[0].startswith(words), ranks.everything()
        if number == signal.SIGSTOP:
            os.kill(ranks.pid(victim), signal.SIGCONT)
            code, _, lines = ranks.ended(victim, 15)
            assert code != 0, lines  # it has been lost, and finds that out


CASES = [
    (2, signal.SIGKILL, "loading"),
    (3, signal.SIGSTOP, "prefill"),
    (3, signal.SIGKILL, "decode"),
    (2, signal.SIGSTOP, "idle"),
]


@pytest.mark.parametrize(("size", "number", "stage"), CASES)
def test_everyone_ends_and_says_who_is_lost(tmp_path, size, number, stage):
    seed = secrets.randbits(32) if "K2MLX_EXPLORE" in os.environ else f"{size} {stage}"
    print(f"seed {seed}")
    fault(tmp_path, size, number, stage, seed)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(30))
def test_at_many_random_moments(tmp_path, turn):
    seed = int(os.environ.get("K2MLX_SEED", secrets.randbits(32)))
    rng = random.Random(seed)
    size, number = rng.choice([2, 3]), rng.choice([signal.SIGKILL, signal.SIGSTOP])
    stage = rng.choice(STAGES)
    print(f"seed {seed}: {size} ranks, {number.name}, {stage}")
    fault(tmp_path, size, number, stage, seed)


# --- What goes wrong on one rank -----------------------------------------------------------------


def damaged(folder):
    """k2-nano with a tensor of its last layers full of NaN: the ranks before it can load."""
    import mlx.core as mx

    from tests.weights.slices import rewrite

    shutil.copytree(NANO, folder)

    def spoil(arrays):
        name = "model.layers.5.input_layernorm.weight"
        arrays[name] = arrays[name] * mx.array(float("nan"), arrays[name].dtype)

    rewrite(folder / "model.safetensors", spoil)
    return folder


def test_a_rank_that_cannot_load_ends_all_with_its_reason(tmp_path, size=3):
    model = damaged(tmp_path / "model")
    out = tmp_path / "ranks"
    out.mkdir()
    with launched(out, size, "generate", "--prompt", "hello", "--model", str(model)) as ranks:
        for rank in range(size):
            code, _, lines = ranks.ended(rank, 40)
            assert code == 1, ranks.everything()
            assert len(lines) == 1, lines
            assert lines[0].startswith(f"k2mlx: rank {size - 1} ({HOST}) failed: {model}")
            assert "layers.5.input_layernorm.weight holds NaN" in lines[0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_cannot_even_read_its_config_ends_all(tmp_path, victim):
    """The others wait for what it has to say of itself."""
    words = ("generate", "--prompt", "hello", "--model", NANO)
    with launched(tmp_path, 2, "--no-config", str(victim), *words) as ranks:
        for rank in (0, 1):
            code, _, lines = ranks.ended(rank, 40)
            assert code not in (0, -signal.SIGKILL), ranks.everything()
            # mlx.launch may end a rank before it is told
            assert len(lines) == 1 or (rank != victim and code == -signal.SIGTERM), lines
            if lines:
                assert "no such luck" in lines[0]
                assert lines[0].startswith(f"k2mlx: rank {victim}") or rank == victim, lines


@pytest.mark.parametrize(
    ("size", "victim"),
    [(2, 1), *(pytest.param(3, victim, marks=pytest.mark.slow) for victim in range(3))],
)
def test_an_error_in_a_step_ends_all_with_it(tmp_path, size, victim):
    """In the forward of one rank, while all of them compute."""
    with launched(tmp_path, size, "--break", str(victim), *GENERATE, "--model", NANO) as ranks:
        for rank in range(size):
            code, _, lines = ranks.ended(rank, 40)
            assert code == 1, ranks.everything()
            assert lines == [f"k2mlx: rank {victim} ({HOST}) failed: ValueError: no such luck"]


def test_a_request_that_cannot_be_answered_is_one_line(tmp_path):
    words = ("generate", "--prompt", "word " * 9000, "--model", NANO)
    with launched(tmp_path, 2, *words) as ranks:
        code, _, lines = ranks.ended(0, 40)
        assert code == 2 and len(lines) == 1 and "tokens" in lines[0], ranks.everything()
        code, _, lines = ranks.ended(1, 20)
        assert len(lines) <= 1, lines


# --- How it is ended -----------------------------------------------------------------------------


def in_order(folder, whom, stage):
    words = chat() if stage == "idle" else (*GENERATE, "--model", NANO)
    with launched(folder, 2, *words) as ranks:
        for rank in (0, 1):
            ranks.read(rank, stage)
        time.sleep(random.Random(f"{whom} {stage}").uniform(0, 0.3))
        since = time.time()
        if whom == "Ctrl-C":
            os.killpg(ranks.process.pid, signal.SIGINT)
        else:
            os.kill(ranks.pid(int(whom[-1])), signal.SIGTERM)
        for rank in (0, 1):
            code, when, lines = ranks.ended(rank, WITHIN + 5)
            assert when - since < WITHIN, ranks.everything()
            # mlx.launch sends SIGTERM once one has ended: rank 1 may be past its last line by then.
            assert code in (0, 130) or (rank == 1 and code == -signal.SIGTERM), ranks.everything()
            assert lines == [], lines


ENDS = [(whom, stage) for whom in ("rank 0", "rank 1", "Ctrl-C") for stage in STAGES[1:]]
ENDS_IN_CI = [("rank 0", "decode"), ("rank 1", "idle"), ("rank 1", "loading"), ("Ctrl-C", "decode")]


@pytest.mark.parametrize(("whom", "stage"), ENDS_IN_CI)
def test_it_ends_in_order_when_it_is_asked_to(tmp_path, whom, stage):
    in_order(tmp_path, whom, stage)


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "stage"), ENDS)
def test_it_ends_in_order_at_any_stage(tmp_path, whom, stage):
    in_order(tmp_path, whom, stage)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_mlx_launch(tmp_path, number):
    """It does not tell them that it ends."""
    with launched(tmp_path, 2, *chat(), module_words=("--inside",)) as ranks:
        pids = [int(ranks.read(rank, "idle")) for rank in (0, 1)]
        ranks.process.send_signal(number)
        deadline = time.monotonic() + WITHIN
        while alive := [pid for pid in pids if is_running(pid)]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.05)


def is_running(pid):
    """Not a zombie, which a container without an init keeps."""
    with suppress(OSError):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True).stdout
        return bool(state.strip()) and not state.startswith(b"Z")
    return False


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_comes_is_missed(tmp_path, rank):
    """MLX would wait for it for ever, and hear no signal."""
    ports = free_ports(2)
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{ports + i}"] for i in range(2)]))
    body = f"import sys; from k2mlx.parallel import group; group.FORMING = 2.0\n{MAIN}"
    environment = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", body],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"k2mlx: rank {rank} does not find the others: got nothing for 2 s, wanted rank {1 - rank}"
        f" at 127.0.0.1:{ports + 1 - rank} to answer; "
    )
    assert done.stderr.count("\n") == 1
    assert 2 < time.monotonic() - began < 30


MAIN = "from k2mlx.cli import main; sys.exit(main(['generate', '--prompt', 'hello']))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_a_rank_can_be_ended(tmp_path, number):
    hosts = tmp_path / "hosts.json"
    ports = free_ports(2)
    hosts.write_text(json.dumps([[f"127.0.0.1:{ports + i}"] for i in range(2)]))
    environment = {"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts), "PYTHONPATH": str(ROOT)}
    rank = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{MAIN}"], cwd=ROOT, env=os.environ | environment
    )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # until MLX listens
            with suppress(OSError), socket.create_connection(("127.0.0.1", ports), 0.2):
                break
            time.sleep(0.05)
        time.sleep(0.3)
        rank.send_signal(number)
        assert rank.wait(5) not in (0, -signal.SIGKILL)
    finally:
        rank.kill()
        rank.wait()

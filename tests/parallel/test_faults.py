"""`python -m k2mlx` under mlx.launch, with ranks that are killed, stopped or fail at any moment."""

import os
import platform
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.parallel.test_tensor_ring import free_ports

ROOT = Path(__file__).parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")
HOST = platform.node()
NANO = str(ROOT / "models" / "k2-nano")
STAGES = ("loading", "prefill", "decode", "idle")
WITHIN = 10.0  # seconds, the issue's
# Long enough that no moment of it is the end: a prompt of several chunks, and an answer.
GENERATE = ("generate", "--raw", "--prompt", "one two three four " * 300, "--max-tokens", "800")


class Launched:
    """Ranks of rank.py under mlx.launch."""

    def __init__(self, folder, size, words):
        self.folder, self.size = folder, size
        start = [LAUNCH, "-n", str(size), "--backend", "ring", "--starting-port"]
        start += [str(free_ports(size)), "--", sys.executable, "-m", "tests.parallel.rank"]
        self.output = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            [*start, folder, *words], stdin=subprocess.DEVNULL, stdout=self.output,
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

    def pid(self, rank):
        return int(self.read(rank, "pid"))

    def ended(self, rank, within):
        """(code, when, the lines of its standard error)"""
        code, when = self.read(rank, "code", within).split()
        lines = self.read(rank, "err").splitlines()
        # MLX's own, of a neighbour that is gone, as often as it tries to reach it.
        return int(code), float(when), [line for line in lines if not line.startswith("[ring]")]

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
def launched(folder, size, *words):
    ranks = Launched(folder, size, words)
    try:
        yield ranks
    finally:
        ranks.close()
    for rank in range(size):
        with pytest.raises(ProcessLookupError):
            os.kill(ranks.pid(rank), 0)


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
            ranks.read(rank, "loading")
        ranks.read(victim, stage)
        time.sleep(rng.uniform(0, 0.6 if stage == "decode" else 0.1))
        since = time.time()
        os.kill(ranks.pid(victim), number)
        found = [ranks.ended(rank, WITHIN + 5) for rank in range(size) if rank != victim]
        told = {signal.SIGKILL: "its connection ended", signal.SIGSTOP: "nothing heard of it"}
        for code, when, lines in found:
            assert when - since < WITHIN, ranks.everything()
            assert code not in (0, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT), code
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

"""One start of a command on all hosts by mlx.launch, and how each rank ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .hostfile import Host, HostFile
from .rank import GRACE, MARK
from .remote import ANSWER, Remote, Unreachable

LAUNCH = "from mlx._distributed_utils.launch import main; main()"
DRAIN = 15.0  # seconds for all ranks to end once one has, or was asked to


@dataclass
class Ended:
    """hosts: of the ranks. codes: of those that told how they ended."""

    hosts: list[str]
    codes: dict[int, int] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Something else than what the user asked for, or asked wrongly."""
        return 2 not in self.codes.values() and self.code != 0

    @property
    def code(self) -> int:
        if 2 in self.codes.values():
            return 2
        good = len(self.codes) == len(self.hosts) and not any(self.codes.values())
        return 0 if good else 1

    @property
    def account(self) -> str:
        def fate(rank: int) -> str:
            code = self.codes.get(rank)
            return "was lost" if code is None else f"ended with code {code}"

        ranks = (f"rank {rank} ({host}) {fate(rank)}" for rank, host in enumerate(self.hosts))
        return "; ".join(ranks)


class Run:
    """One start of mlx.launch."""

    def __init__(
        self,
        hostfile: HostFile,
        command: Sequence[str],
        python: str,
        port: int,
        stop: threading.Event,
    ) -> None:
        self._hosts, self._python, self._stop = hostfile.hosts, python, stop
        self._ended = Ended([host.ssh for host in hostfile.hosts])
        self._folder = tempfile.TemporaryDirectory(prefix="k2mlx-")
        hosts = Path(self._folder.name, "hosts.json")
        hosts.write_text(hostfile.to_json())
        self._job = secrets.token_hex(8)
        launch = [sys.executable, "-c", LAUNCH, "--hostfile", str(hosts)]
        launch += ["--backend", hostfile.backend, "--starting-port", str(port), "--"]
        rank = [python, "-m", "k2mlx.cluster.rank", self._job, "--"]
        # A session of its own: Ctrl-C is for us, who ask rank 0 to end. A pipe for its input: it
        # would look at one that has ended again and again.
        self._process = subprocess.Popen(
            [*launch, *rank, *command],
            env=os.environ | _terminal(),
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._pumps = [
            threading.Thread(target=self._pump, args=pair, daemon=True)
            for pair in (
                (self._process.stdout, sys.stdout.buffer),
                (self._process.stderr, sys.stderr.buffer),
            )
        ]
        for pump in self._pumps:
            pump.start()

    def wait(self) -> Ended:
        """Until nothing of it runs any more."""
        asked = first = None
        while self._process.poll() is None:
            time.sleep(0.05)
            now = time.monotonic()
            if self._stop.is_set() and asked is None:
                asked = now
                self._everywhere("--stop", self._hosts[:1])
            if first is None and any(self._ended.codes.values()):
                first = now
            if any(since is not None and now - since > DRAIN for since in (asked, first)):
                break
        self._everywhere("--reap", self._hosts)
        self._end_launcher()
        for pump in self._pumps:
            pump.join(DRAIN)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._folder.cleanup()
        return self._ended

    def _end_launcher(self) -> None:
        """It holds no memory of a device: when it does not end with its ranks, it is made to."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._process.send_signal(number)
            try:
                self._process.wait(3.0)
                return
            except subprocess.TimeoutExpired:
                continue

    def _everywhere(self, word: str, hosts: Sequence[Host]) -> None:
        """On hosts that do not answer, the ranks notice by themselves that they are alone."""

        def ask(name: str) -> None:
            argv = [self._python, "-m", "k2mlx.cluster.rank", word, self._job]
            with suppress(Unreachable):
                done = Remote(name).run(argv, timeout=2 * GRACE + ANSWER)
                for line in done.out.split("\n"):
                    self._take(line.removeprefix(MARK).split())

        names = list(dict.fromkeys(host.ssh for host in hosts))
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(ask, names))

    def _pump(self, source: Any, sink: BinaryIO) -> None:
        """Pass on what comes, but for the lines that ranks write for us."""
        mark, held = MARK.encode(), b""
        while piece := source.read1(1 << 16):
            *lines, rest = (held + piece).split(b"\n")
            held = b""
            for line in lines:
                before, marked, told = line.partition(mark)
                sink.write(before if marked else line + b"\n")
                if marked:
                    self._take(told.decode(errors="replace").split())
            before, marked, told = rest.partition(mark)
            sink.write(before)
            held = marked + told
            sink.flush()

    def _take(self, words: list[str]) -> None:
        match words:
            case [self._job, rank, "ended", code]:
                self._ended.codes[int(rank)] = int(code)


def _terminal() -> dict[str, str]:
    """The size of our terminal, which mlx.launch hands on: ranks show progress by it."""
    if not sys.stderr.isatty():
        return {}
    columns, lines = os.get_terminal_size(sys.stderr.fileno())
    return {"COLUMNS": str(columns), "LINES": str(lines)}

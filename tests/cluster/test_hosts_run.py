"""`k2mlx cluster run` on hosts that are killed and cut off: it starts again, and talks go on."""

import json
import re
import signal
import sys
import time
from contextlib import contextmanager

import pytest

from tests.cluster import hosts as stage
from tests.cluster.hosts import ROOT, hosts, wait_until

WHY_NOT = stage.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

URL = "http://127.0.0.1:7860"
# Together with the page's own words more than a block of the prefix cache, of 256 tokens.
QUESTION = "I have to count eggs for my whole family this morning. " * 4 + "What is 12 times 7?"
PAGE = ("chat", "--model", str(ROOT / "models" / "k2-nano"), "--no-browser", "--port", "7860")


class Supervised:
    """`cluster run` on the first host, with a chat page."""

    def __init__(self, made, wait):
        self.hosts, self._log = made, made[0].shared / "log"
        hostfile = made[0].shared / "hosts.json"
        entries = [{"ssh": host.name, "ips": [host.address]} for host in made]
        hostfile.write_text(json.dumps({"hosts": entries}))
        words = ("cluster", "run", "--hostfile", hostfile, "--wait", wait, "--", *PAGE)
        with self._log.open("wb") as log:
            self.process = made[0].start(
                sys.executable, "-m", "k2mlx", *words, stdout=log, stderr=log
            )

    @property
    def log(self):
        return self._log.read_text()

    def serves(self, times, within):
        """Wait until the page has been ready this often."""
        wait_until(lambda: self.log.count(f"Ready: {URL}") == times, within, self)

    def ask(self):
        """What the page says, and the tokens for it that were read from disk."""
        program = (sys.executable, "-m", "tests.cluster.visitor", URL, QUESTION)
        told = self.hosts[0].run(*program).stdout.splitlines()[-1]
        said = re.search(r'"role": "assistant".*?"text": "(.*?)k2-cost(.*?)</div>', told)
        answer, cost = said.groups()
        found = re.search(r"\((\d+) on disk\)", cost)
        return answer, int(found[1]) if found else 0

    def ranks(self):
        """What runs of the ranks, by host."""
        return [
            [pid for pid, args in host.processes().items() if "-m k2mlx chat" in args]
            for host in self.hosts
        ]

    def __str__(self):
        return self.log[-8000:]


@contextmanager
def supervised(count, wait="60"):
    with hosts(count) as made:
        running = Supervised(made, wait)
        try:
            yield running
        finally:
            running.process.kill()
            running.process.wait()


@pytest.mark.parametrize("kind", ["kill", pytest.param("cut", marks=pytest.mark.slow)])
def test_it_starts_again_when_a_host_is_back_and_reads_what_was_said(kind):
    with supervised(2) as running:
        a, b = running.hosts
        running.serves(1, 60)
        answer, from_disk = running.ask()
        assert answer and from_disk == 0
        for host in running.hosts:  # what it has read is written when nobody waits
            written = host.home / "cache" / "prefix"
            wait_until(lambda w=written: list(w.glob("*.safetensors")), 10, running)
        since = time.monotonic()
        b.kill() if kind == "kill" else b.cut()
        # Its own account, behind what rank 0 says if mlx.launch leaves it the time.
        ended = rf"rank 0 \({a.name}\) ended with code [1-9]\d*; rank 1 \({b.name}\) was lost"
        wait_until(lambda: re.search(ended, running.log), 45, running)
        b.boot() if kind == "kill" else b.mend()
        running.serves(2, 90)
        print(f"{kind}: serves again after {time.monotonic() - since:.1f} s")
        assert f"starting again on {a.name}, {b.name} (1 of 3)" in running.log
        assert running.ask() == (answer, 256)
        assert [len(pids) > 0 for pids in running.ranks()] == [True, True]
        pids = [pid for pid, args in a.processes().items() if "cluster run" in args]
        a.kill(*pids, number=signal.SIGTERM)
        assert running.process.wait(30) == 128 + signal.SIGTERM, str(running)
        wait_until(lambda: running.ranks() == [[], []], 5, running)


@pytest.mark.slow
def test_it_goes_on_without_a_host_that_stays_away():
    with supervised(2, "3") as running:
        a, b = running.hosts
        running.serves(1, 60)
        b.kill()
        running.serves(2, 60)
        assert f"starting again on {a.name} (1 of 3)" in running.log
        assert running.ask()[0]

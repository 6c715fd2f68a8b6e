"""The side channel between real processes that are killed, stopped, cut off and lied to."""

import os
import random
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from json import loads
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from k2mlx.errors import ClusterError
from k2mlx.parallel.channel import SILENCE, Listener, open_channel
from k2mlx.parallel.wire import Kind, encode

ROOT = Path(__file__).parents[2]
SHORT = 2.0  # seconds of silence in most of these tests
SECRET = bytes(range(16))


class Rank:
    """A process of chatter.py; what it says is read as it comes."""

    def __init__(self, rank, size, port, job, silence=SHORT, timeout=20.0, secret=SECRET):
        self.rank, self.host = rank, f"host{rank}"
        words = [rank, size, port, secret.hex(), silence, timeout, job]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.chatter", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.said, self.lines = [], SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(loads(line))

    def heard(self, key, within=20.0):
        """The value of the next line that has this key."""
        deadline = time.monotonic() + within
        for line in self.said:
            if key in line:
                return line[key]
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"rank {self.rank} says no {key!r}: {self.said}") from None
            self.said.append(line)
            if key in line:
                return line[key]

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.process.kill()
        self.errors = self.process.communicate()[1]


@contextmanager
def ranks(size, job, through=None, **options):
    """A group whose channel is open. through: of a rank, the port by which it reaches rank 0's."""
    started = [Rank(0, size, 0, job, **options)]
    try:
        port = started[0].heard("port")
        for rank in range(1, size):
            way = port if through is None else through(rank, port)
            started.append(Rank(rank, size, way, job, **options))
        for one in started:
            assert one.heard("open") == [f"host{rank}" for rank in range(size)]
        yield started
    finally:
        for one in started:
            one.end()


class Relay:
    """Carries bytes to a port, until it is a black hole: it carries none and closes nothing."""

    def __init__(self, port):
        self._to, self.black = port, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        with suppress(OSError):
            while piece := source.recv(65536):
                if self.black.is_set():
                    return
                sink.sendall(piece)

    def close(self):
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def check_told(survivor, lost, since, within, why=""):
    """One ClusterError, on one line, that names who is lost; and the callback got it once."""
    error = survivor.heard("error", within + 5)
    assert error.startswith(f"rank {lost.rank} ({lost.host}) was lost: "), error
    assert why in error and "\n" not in error
    (line,) = [line for line in survivor.said if "error" in line]
    assert line["calls"] == [error]
    assert line["at"] - since < within
    assert survivor.process.wait(5) == 3


FAULTS = ("kill", "stop", "black hole")


def fault(size, job, how, silence, within, seed):
    """One rank has this fault at a random moment. Who survives says who is lost, and in time."""
    rng = random.Random(seed)
    victim = rng.randrange(1 if how == "black hole" else 0, size)
    relays = {}

    def through(rank, port):
        if how != "black hole" or rank != victim:
            return port
        relays[rank] = Relay(port)
        return relays[rank].port

    with ranks(size, job, through, silence=silence) as started:
        time.sleep(rng.uniform(0, 1.5))
        since, lost = time.time(), started[victim]
        if how == "kill":
            lost.signal(signal.SIGKILL)
        elif how == "stop":
            lost.signal(signal.SIGSTOP)
        else:
            relays[victim].black.set()
        why = "its connection ended" if how == "kill" else f"nothing heard of it for {silence:.0f}"
        for one in started:
            if one is not lost:
                check_told(one, lost, since, within, why)
        if how == "black hole":  # it sees rank 0 go, as nobody else reaches it
            check_told(lost, started[0], since, within, why)
    for relay in relays.values():
        relay.close()


@pytest.mark.parametrize(
    ("how", "job"),
    [("kill", "talk"), ("kill", "vote"), ("stop", "talk"), ("stop", "hear"),
     ("black hole", "talk"), ("black hole", "vote")],
)  # fmt: skip
def test_everyone_is_told_once_who_is_lost(how, job):
    """Whether they talk all the time, wait to hear, or wait for a vote."""
    seed = f"{how} {job}"
    fault(3, job, how, SHORT, 5.0, seed)


def test_it_takes_less_than_ten_seconds_with_the_silence_that_is_shipped():
    assert SILENCE < 8
    fault(2, "talk", "stop", SILENCE, 10.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
def test_at_many_random_moments(number):
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    how, job = rng.choice(FAULTS), rng.choice(["talk", "hear", "vote"])
    print(f"seed {seed}: {how}, {job}")
    fault(rng.randint(2, 5), job, how, SILENCE, 10.0, seed)


def test_what_fails_on_one_rank_is_known_to_all_by_its_words():
    with ranks(4, "fail") as started:
        for one in started:
            assert one.heard("error") == "rank 3 (host3) failed: ValueError: no such luck"
            assert one.process.wait(5) == 3


def test_a_full_buffer_holds_up_nobody():
    """Rank 1 is stopped and takes nothing; rank 2 gets all that is told until rank 1 is given up,
    and telling lasts no longer than writing to memory does."""
    with flooded() as (leader, stopped, other):
        assert leader.heard("longest", 60) < 1.0
        words = f"rank 1 ({stopped.host}) was lost: it does not take what it is sent"
        assert leader.heard("error", 10) == words
        assert other.heard("heard", 10) > 200 << 20
        assert other.heard("error", 10) == words


@contextmanager
def flooded():
    """Three ranks, of which rank 1 is stopped at once."""
    leader = Rank(0, 3, 0, "flood", silence=60.0)
    port = leader.heard("port")
    stopped, other = (Rank(rank, 3, port, "flood", silence=60.0) for rank in (1, 2))
    try:
        stopped.heard("open")
        stopped.signal(signal.SIGSTOP)
        yield leader, stopped, other
    finally:
        for one in (leader, stopped, other):
            one.end()


@pytest.mark.parametrize("job", ["goodbye", "slow_goodbye"])
def test_the_end_is_heard_after_all_that_was_told(job):
    with ranks(3, job) as started:
        for one in started[1:]:
            assert one.heard("closed") is True
        for one in started:
            assert one.heard("ended") is True
            assert one.process.wait(5) == 0
            assert not any("error" in line for line in one.said)


# --- Who comes -----------------------------------------------------------------------------------


def test_who_was_given_up_is_not_told_goodbye():
    """A stopped rank 0, once woken, may hear that the other left before it looks at the clock; it
    would take that for an end in order, and wait for ever."""
    listener, follower = Listener("127.0.0.1"), []
    options = {"address": "127.0.0.1", "port": listener.port, "secret": SECRET, "timeout": 10}
    thread = threading.Thread(target=lambda: follower.append(open_channel(1, 2, **options)))
    thread.start()
    leader = open_channel(0, 2, listener=listener, **options)
    thread.join()
    follower[0].lost(0, "nothing heard of it for 6 s")
    follower[0].close()
    assert leader.failed.wait(5)
    with pytest.raises(ClusterError, match=r"rank 1 .* was lost"):
        leader.vote(1)
    leader.close()


def hello(rank, secret=SECRET):
    return encode(Kind.HELLO, secret + struct.pack("<I", rank) + b"stranger")


STRANGERS = {
    "another secret": hello(1, bytes(16)),
    "rank 0": hello(0),
    "a rank too many": hello(9),
    "no secret": encode(Kind.HELLO),
    "no greeting": encode(Kind.TELL, b"come in"),
    "a web browser": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "another version": b"K2MX\2" + hello(1)[5:],
    "64 MB": b"K2MX" + struct.pack("<BBI", 1, Kind.TELL, 1 << 26) + bytes(1 << 20),
    "nothing": b"",
    "half a greeting": hello(1)[:12],
}


SILENT = ("nothing", "half a greeting")


def test_strangers_do_no_harm_and_delay_nobody():
    """Those that say something wrong are sent away without a word; those that say nothing, or too
    little, are waited for beside the others."""
    leader, callers = Rank(0, 2, 0, "goodbye"), {}
    try:
        for who, words in STRANGERS.items():
            callers[who] = socket.create_connection(("127.0.0.1", leader.heard("port")))
            callers[who].settimeout(10)
            with suppress(OSError):  # the door may close before they have said all
                callers[who].sendall(words)
        began = time.monotonic()
        for who in STRANGERS.keys() - SILENT:
            with suppress(ConnectionResetError):
                assert callers[who].recv(100) == b"", who
        assert time.monotonic() - began < 2
        follower = Rank(1, 2, leader.heard("port"), "goodbye")
        assert follower.heard("open", 4) == ["host0", "host1"]
        assert follower.heard("closed") is True
        follower.end()
    finally:
        leader.end()
        for caller in callers.values():
            caller.close()
    assert leader.errors == ""


def test_a_second_rank_1_is_sent_away_and_the_first_stays():
    leader = Rank(0, 3, 0, "goodbye")
    first = Rank(1, 3, leader.heard("port"), "goodbye")
    others = []
    try:
        with socket.create_connection(("127.0.0.1", leader.heard("port"))) as second:
            # Which of the two is first is chance; whoever is second meets a closed door.
            time.sleep(1.5)
            second.settimeout(5)
            second.sendall(hello(1))
            assert second.recv(100) == b""
        others.append(Rank(2, 3, leader.heard("port"), "goodbye"))
        for one in (first, *others):
            assert one.heard("open")[2] == "host2"
            assert one.heard("closed") is True
    finally:
        for one in (leader, first, *others):
            one.end()
    assert leader.errors == ""


def test_strangers_find_nobody_once_all_are_there():
    with ranks(2, "talk") as started, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", started[0].heard("port")), 2)


def test_a_rank_that_does_not_come_is_named():
    leader = Rank(0, 4, 0, "wait", timeout=2.0)
    follower = Rank(2, 4, leader.heard("port"), "wait", timeout=2.0)
    try:
        error = leader.heard("error")
        assert error.startswith("rank 1, 3 did not come, wanted 4 ranks; ")
        assert "\n" not in error
        assert "rank 0 at 127.0.0.1:" in follower.heard("error")
        assert leader.process.wait(5) == follower.process.wait(5) == 3
    finally:
        leader.end()
        follower.end()


def test_nobody_at_the_port_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ClusterError, match=f"rank 0 at 127.0.0.1:{port} does not answer rank 1"):
        open_channel(1, 2, address="127.0.0.1", port=port, secret=SECRET, timeout=2)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc/net/tcp")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_it_listens_on_the_address_that_it_is_given_alone(address):
    try:
        listener = Listener(address)
    except ClusterError:
        if address == "127.0.0.1":
            raise
        pytest.skip(f"this machine does not have {address}")
    with listener.socket:
        found = listening(listener.port)
    assert found == [socket.inet_pton(listener.socket.family, address)]


def listening(port):
    """Addresses at which anybody listens on this port, as the kernel says."""
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            where, state = line.split()[1], line.split()[3]
            address, _, at = where.partition(":")
            if state == "0A" and int(at, 16) == port:
                words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
                found.append(b"".join(struct.pack("=I", word) for word in words))
    return found


def test_an_address_that_is_not_of_this_machine_is_one_line():
    with pytest.raises(ClusterError, match=r"cannot listen on 192\.0\.2\.1 .* correct it"):
        Listener("192.0.2.1")  # of a network that exists in documentation alone

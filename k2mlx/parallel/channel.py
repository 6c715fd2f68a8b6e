"""The side channel between ranks: a star of TCP connections around rank 0.

Over it goes what is not tensors (those go over mx.distributed, which waits for a stopped rank for
ever): what rank 0 tells the others, what all have to agree on, and heartbeats. A rank whose
connection ends, or that is not heard of for SILENCE seconds, is lost, and then all ranks are told
the same: which one, on which host, and why.

Only who has the secret gets in; it is told over the ring, so the ring's network has to be trusted.
"""

from __future__ import annotations

import hmac
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ..errors import ClusterError
from .wire import Frame, Kind, WireError, encode, pack, receive, unpack

BEAT, SILENCE = 1.0, 6.0  # seconds
GREETING = 5.0  # seconds that a newcomer has to say who it is
BACKLOG = 1 << 28  # bytes on their way to a rank; more, and it is lost
SECRET = 16  # bytes
LEAVING = 2.0  # seconds for the last words
_RANK = struct.Struct("<I")
_VALUE = struct.Struct("<q")
_PROGRESS = struct.Struct("<QQ")


class Closed(Exception):
    """Nothing will be told any more."""


class _Failed:
    """In a queue, in the place of what will not come any more."""


class _Goodbye:
    """In a queue, behind all that was told."""


Heard = Frame | bytes | type[_Failed] | type[_Goodbye]


class Listener:
    """Where a rank waits for others: on `address` alone, at a free `port`."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self.socket = socket.create_server((address, 0), family=family)
        except OSError as error:
            raise ClusterError(
                f"cannot listen on {address} ({error.strerror}), wanted an address of this"
                " machine in the host file; correct it, or run 'k2mlx cluster init'"
            ) from error
        self.port: int = self.socket.getsockname()[1]


class Channel:
    """This rank's end of the channel; made by `open_channel`."""

    def __init__(self, rank: int, names: list[str], links: dict[int, socket.socket]) -> None:
        self.rank, self.size, self.names = rank, len(names), names
        self.address: str = next(iter(links.values())).getsockname()[0]  # that the others reach
        self.error: ClusterError | None = None
        self.failed = threading.Event()
        self.on_report: Callable[[int, int, int], None] | None = None
        self.on_stop: Callable[[], None] | None = None
        self._on_failure: Callable[[ClusterError], None] | None = None
        self._told: SimpleQueue[Heard] = SimpleQueue()
        self._gathered: dict[int, SimpleQueue[Heard]] = {r: SimpleQueue() for r in links}
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._links = {other: _Link(self, other, link) for other, link in links.items()}
        self._beats = threading.Thread(target=self._beat, name="k2mlx heartbeat", daemon=True)
        self._beats.start()

    @property
    def on_failure(self) -> Callable[[ClusterError], None] | None:
        """Called once, on a thread of the channel's, when the group cannot go on."""
        return self._on_failure

    @on_failure.setter
    def on_failure(self, call: Callable[[ClusterError], None]) -> None:
        with self._lock:
            self._on_failure, error = call, self.error
        if error is not None:
            call(error)

    def tell(self, payload: bytes) -> None:
        """Rank 0 to all others, in order; waits for nobody."""
        frame = encode(Kind.TELL, payload)
        for link in self._links.values():
            link.send(frame)

    def hear(self, timeout: float | None = None) -> bytes:
        """The next that rank 0 told. Raises: TimeoutError, ClusterError once the group has failed,
        Closed after rank 0 has left."""
        heard = self._next(self._told, timeout)
        if heard is _Goodbye:
            self._told.put(_Goodbye)
            raise Closed
        assert isinstance(heard, bytes)
        return heard

    def gather(self, payload: bytes) -> list[bytes]:
        """Everyone's, on everyone, by rank. Every rank calls it, in the same order."""
        if self.rank:
            self._links[0].send(encode(Kind.GATHER, payload))
            found = self._next(self._gathered[0])
            assert isinstance(found, bytes)
            return unpack(found)
        found = [self._next(self._gathered[rank]) for rank in sorted(self._links)]
        everyone = [payload, *(part for part in found if isinstance(part, bytes))]
        frame = encode(Kind.GATHERED, pack(everyone))
        for link in self._links.values():
            link.send(frame)
        return everyone

    def vote(self, value: int) -> int:
        """The least of all ranks' values. Every rank calls it, in the same order."""
        return min(_VALUE.unpack(part)[0] for part in self.gather(_VALUE.pack(value)))

    def total(self, value: int) -> int:
        """The sum of all ranks' values. Every rank calls it, in the same order."""
        return sum(_VALUE.unpack(part)[0] for part in self.gather(_VALUE.pack(value)))

    def report(self, done: int, total: int) -> None:
        """Tell rank 0's `on_report` how far this rank is."""
        if self.rank:
            self._links[0].send(encode(Kind.REPORT, _PROGRESS.pack(done, total)))
        elif self.on_report is not None:
            self.on_report(0, done, total)

    def ask_to_stop(self) -> None:
        """Ask rank 0 to end for all; its `on_stop` is called."""
        if self.rank:
            self._links[0].send(encode(Kind.STOP))
        elif self.on_stop is not None:
            self.on_stop()

    def fail(self, why: str) -> None:
        """This rank cannot go on: so nobody can, and everyone is told why."""
        text = f"{self._name(self.rank)} failed: {why}"
        if self.rank and self.error is None:
            self._links[0].send(encode(Kind.FAIL, text.encode()[:4096]))
        self._fail(text)

    def close(self) -> None:
        """Leave. From rank 0 it is a goodbye to all, after everything that it told.

        After a failure without one: who was only stopped, and is woken, would take it for an end in
        order, and wait for ever."""
        self._leaving.set()
        for link in self._links.values():
            link.leave(goodbye=self.error is None)
        deadline = time.monotonic() + LEAVING
        for link in self._links.values():
            link.end(deadline)

    # Called on the channel's threads.

    def take(self, other: int, frame: Frame) -> None:
        """What came from another rank."""
        match frame.kind:
            case Kind.TELL:
                self._told.put(frame.content)
            case Kind.GATHER | Kind.GATHERED:
                self._gathered[other].put(frame.content)
            case Kind.REPORT if self.on_report is not None:
                self.on_report(other, *_PROGRESS.unpack(frame.content))
            case Kind.STOP if self.on_stop is not None:
                self.on_stop()
            case Kind.FAIL | Kind.LOST:
                self._fail(frame.content.decode(errors="replace"))
            case Kind.BYE:
                self._told.put(_Goodbye)

    def lost(self, other: int, why: str) -> None:
        """Another rank is gone. On rank 0 it was a follower, elsewhere it was rank 0."""
        if not self._leaving.is_set():
            self._fail(f"{self._name(other)} was lost: {why}")

    def _fail(self, text: str) -> None:
        with self._lock:
            if self.error is not None or self._leaving.is_set():
                return
            self.error = ClusterError(text)
            call = self._on_failure
        if self.rank == 0:
            for link in self._links.values():
                with suppress(WireError):
                    link.send(encode(Kind.LOST, text.encode()[:8192]))
        self.failed.set()
        for queue in (self._told, *self._gathered.values()):
            queue.put(_Failed)
        if call is not None:
            call(self.error)

    def _next(self, queue: SimpleQueue[Heard], timeout: float | None = None) -> Heard:
        try:
            heard = queue.get(block=timeout != 0, timeout=timeout or None)
        except Empty:
            raise TimeoutError from None
        if heard is _Failed:
            queue.put(_Failed)
            assert self.error is not None
            raise self.error
        return heard

    def _beat(self) -> None:
        frame = encode(Kind.BEAT)
        while not self._leaving.wait(BEAT) and self.error is None:
            now = time.monotonic()
            for other, link in self._links.items():
                link.send(frame)
                if not link.left and now - link.heard > SILENCE:
                    self.lost(other, f"nothing heard of it for {SILENCE:.0f} s")

    def _name(self, rank: int) -> str:
        return f"rank {rank} ({self.names[rank]})"


class _Link:
    """A connection to another rank, with a thread that sends and one that receives: neither a
    stopped rank nor a full buffer holds up anybody else."""

    def __init__(self, channel: Channel, other: int, connection: socket.socket) -> None:
        self.heard, self.left = time.monotonic(), False
        self._channel, self._other, self._connection = channel, other, connection
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0  # bytes in `_out`
        self._lock = threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sender = threading.Thread(target=self._send_all, name="k2mlx sender", daemon=True)
        self._sender.start()
        self._receiver = threading.Thread(
            target=self._receive_all, name="k2mlx receiver", daemon=True
        )
        self._receiver.start()

    def send(self, frame: bytes) -> None:
        """Now, where the connection takes it, for waking the sender would take longer; else when it
        does."""
        with self._lock:
            if not self._waiting:
                frame = frame[self._taken(frame) :]
            self._waiting += len(frame)
            full = self._waiting > BACKLOG
            if frame and not full:
                self._out.put(frame)
        if full:
            self._channel.lost(self._other, "it does not take what it is sent")

    def _taken(self, frame: bytes) -> int:
        try:
            return self._connection.send(frame, socket.MSG_DONTWAIT)
        except OSError:  # it would wait; or has ended, of which the receiver tells
            return 0

    def leave(self, *, goodbye: bool) -> None:
        """After all that waits."""
        if goodbye:
            self._out.put(encode(Kind.BYE))
        self._out.put(None)

    def end(self, deadline: float) -> None:
        """Close, once the other has heard the goodbye: closing while something of the other's is
        unread would take back what is on its way to it."""
        self._sender.join(max(deadline - time.monotonic(), 0))
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._receiver.join(max(deadline - time.monotonic(), 0))
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _send_all(self) -> None:
        with suppress(OSError):  # the receiver tells of it
            while (frame := self._out.get()) is not None:
                self._connection.sendall(frame)
                with self._lock:
                    self._waiting -= len(frame)

    def _receive_all(self) -> None:
        why = "its connection ended"
        try:
            while True:
                frame = receive(self._connection)
                self.heard = time.monotonic()
                self.left = self.left or frame.kind is Kind.BYE
                self._channel.take(self._other, frame)
        except EOFError:
            pass
        except (OSError, WireError, struct.error) as error:
            why = f"its connection ended ({error})"
        if not self.left:
            self._channel.lost(self._other, why)
        with suppress(OSError):  # there is nothing left to say, and the other may wait to hear that
            self._connection.shutdown(socket.SHUT_WR)


def open_channel(
    rank: int,
    size: int,
    *,
    address: str,
    port: int,
    secret: bytes,
    timeout: float,
    listener: Listener | None = None,
) -> Channel:
    """The channel, once all ranks have come. rank 0 has the listener, the others its address.

    Raises: ClusterError for ranks that have not come in time.
    """
    deadline = time.monotonic() + timeout
    name = (platform.node() or "unnamed").encode()[:255]
    if rank == 0:
        assert listener is not None
        return _welcome(listener, size, name, secret, deadline)
    try:
        link = socket.create_connection((address, port), timeout)
        link.sendall(encode(Kind.HELLO, secret + _RANK.pack(rank) + name))
        link.settimeout(max(deadline - time.monotonic(), 0.1))
        frame = receive(link, Kind.WELCOME)
        names = [part.decode(errors="replace") for part in unpack(frame.content)]
    except (OSError, EOFError, WireError) as error:
        raise ClusterError(
            f"rank 0 at {address}:{port} does not answer rank {rank} ({error!r}); is a firewall in"
            " between? 'k2mlx cluster check' tells"
        ) from error
    return Channel(rank, names, {0: link})


def _welcome(listener: Listener, size: int, name: bytes, secret: bytes, deadline: float) -> Channel:
    """Let the others in, each on a thread of its own while it has not said who it is."""
    came: SimpleQueue[tuple[int, bytes, socket.socket]] = SimpleQueue()
    links: dict[int, socket.socket] = {}
    names = {0: name}
    door = threading.Thread(target=_doorkeeper, args=(listener, size, secret, came), daemon=True)
    door.start()
    try:
        while len(links) < size - 1:
            rank, host, link = came.get(timeout=max(deadline - time.monotonic(), 0.001))
            if rank in links:
                link.close()
            else:
                links[rank], names[rank] = link, host
    except Empty:
        missing = ", ".join(str(rank) for rank in range(1, size) if rank not in links)
        raise ClusterError(
            f"rank {missing} did not come, wanted {size} ranks; is a firewall in between? 'k2mlx"
            " cluster check' tells"
        ) from None
    finally:
        # shutdown wakes whoever waits in accept, which close alone does not on Linux.
        with suppress(OSError):
            listener.socket.shutdown(socket.SHUT_RDWR)
        listener.socket.close()
    welcome = encode(Kind.WELCOME, pack([names[rank] for rank in range(size)]))
    for link in links.values():
        with suppress(OSError):  # its end is noticed below
            link.sendall(welcome)
    return Channel(0, [names[r].decode(errors="replace") for r in range(size)], links)


def _doorkeeper(
    listener: Listener,
    size: int,
    secret: bytes,
    came: SimpleQueue[tuple[int, bytes, socket.socket]],
) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            link, _ = listener.socket.accept()
            arguments = (link, size, secret, came)
            threading.Thread(target=_admit, args=arguments, daemon=True).start()


def _admit(
    link: socket.socket,
    size: int,
    secret: bytes,
    came: SimpleQueue[tuple[int, bytes, socket.socket]],
) -> None:
    """A stranger is sent away without a word."""
    try:
        link.settimeout(GREETING)
        frame = receive(link, Kind.HELLO)
        shown, rank = frame.content[:SECRET], _RANK.unpack_from(frame.content, SECRET)[0]
        if hmac.compare_digest(shown, secret) and 0 < rank < size:
            came.put((rank, frame.content[SECRET + _RANK.size :], link))
            return
    except (OSError, EOFError, WireError, struct.error):
        pass
    link.close()

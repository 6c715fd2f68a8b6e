"""Between neighbours: what a step of decode hands on, straight from the engine's thread.

An array that mx.distributed sends passes through three threads of MLX's, and on CUDA each wait for
such a thread looks again after ever longer pauses and allocates: about two milliseconds a hop, as
long as four layers take. So decode has TCP connections of its own, to the right and from the left;
chunks of prompts, which are large and overlap with computing, go over mx.distributed.

A message is its length (u32, little endian) and the array's bytes; what is expected is known, so
any other length ends the connection.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .channel import GREETING, SECRET, Channel, Listener
from .wire import Kind, WireError, encode, receive

_WORD = struct.Struct("<I")  # a length; a rank


class LinkError(Exception):
    """A neighbour is gone, or sends something else than it should. The side channel tells which
    rank is the cause."""


class Expected(NamedTuple):
    """An array to compute with lazily before its values are there. raw: the same memory as bytes.

    Reading `content` waits for nothing; reading x on a device would wait for all that the device
    has to do.
    """

    x: mx.array
    raw: mx.array

    @property
    def content(self) -> memoryview:
        return _bytes(self.raw)


class Link:
    """left, right: connections to the neighbours."""

    def __init__(self, left: socket.socket, right: socket.socket) -> None:
        self._left, self._right = left, right
        self._unsent: mx.array | None = None
        self._expected: deque[Expected] = deque()

    def post(self, x: mx.array) -> None:
        """Start to compute x, for the right neighbour; it is sent by `flush`, so that the host can
        prepare something else while the device computes."""
        self.flush()
        self._unsent = mx.contiguous(x).view(mx.uint8)
        mx.async_eval(self._unsent)

    def flush(self) -> None:
        """Send what was posted, when it is computed. Raises: LinkError."""
        unsent, self._unsent = self._unsent, None
        if unsent is None:
            return
        content = _bytes(unsent)
        try:
            self._right.sendall(_WORD.pack(len(content)) + content)
        except OSError as error:
            raise LinkError(f"the connection to the right neighbour ended ({error})") from error

    def expect(self, shape: tuple[int, ...], dtype: mx.Dtype) -> Expected:
        """What the left neighbour sends next, there after `arrive`."""
        raw = mx.array(np.zeros((*shape[:-1], shape[-1] * dtype.size), np.uint8))
        self._expected.append(Expected(raw.view(dtype), raw))
        return self._expected[-1]

    def arrive(self, x: mx.array) -> None:
        """Wait until x is there, if it is something expected, and what was expected before it.
        Raises: LinkError."""
        while any(x is one.x for one in self._expected):
            self.flush()
            self._receive(self._expected.popleft().content)

    def drain(self) -> None:
        """Send what is unsent, and take what nobody will ask for."""
        self.flush()
        if self._expected:
            self.arrive(self._expected[-1].x)

    def close(self) -> None:
        """Whoever waits in it gets a LinkError."""
        for connection in (self._left, self._right):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _receive(self, into: memoryview) -> None:
        """Into the memory of an array that nothing has been computed from."""
        head = bytearray(_WORD.size)
        self._fill(memoryview(head))
        (length,) = _WORD.unpack(head)
        if length != len(into):
            raise LinkError(
                f"the left neighbour sends {length} bytes, wanted {len(into)}; the ranks are out of"
                " step, start them again and report this"
            )
        self._fill(into)

    def _fill(self, place: memoryview) -> None:
        while place:
            try:
                count = self._left.recv_into(place)
            except OSError as error:
                raise LinkError(f"the left neighbour's connection ended ({error})") from error
            if not count:
                raise LinkError("the left neighbour's connection ended")
            place = place[count:]


def _bytes(array: Any) -> memoryview:
    """An array's own memory, once it is computed."""
    return memoryview(array).cast("B")


def open_link(address: str, channel: Channel, timeout: float) -> Link:
    """Connect to both neighbours; every rank calls it.

    address: of this machine, where this rank listens while the others connect. Who connects has to
    show a secret, which the side channel has told. Raises: ClusterError.
    """
    rank, size, deadline = channel.rank, channel.size, time.monotonic() + timeout
    secret = channel.gather(secrets.token_bytes(SECRET))[0]
    listener = Listener(address)
    with listener.socket as door:
        mine = f"{address}\n{listener.port}".encode()
        addresses = [one.decode().split("\n") for one in channel.gather(mine)]
        to, port = addresses[(rank + 1) % size]
        try:
            right = socket.create_connection((to, int(port)), timeout)
            right.sendall(encode(Kind.HELLO, secret + _WORD.pack(rank)))
            left = _awaited(door, (rank - 1) % size, secret, deadline)
        except OSError as error:
            channel.fail(f"its neighbours at {to}:{port} and on {address} do not come ({error})")
            assert channel.error is not None
            raise channel.error from error
    for connection in (left, right):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Link(left, right)


def _awaited(door: socket.socket, left: int, secret: bytes, deadline: float) -> socket.socket:
    """The connection of the left neighbour; others are sent away."""
    wanted = secret + _WORD.pack(left)
    while True:
        door.settimeout(max(deadline - time.monotonic(), 0.001))
        connection, _ = door.accept()
        try:
            connection.settimeout(GREETING)
            frame = receive(connection, Kind.HELLO)
            if hmac.compare_digest(frame.content, wanted):
                return connection
        except (OSError, EOFError, WireError):
            pass
        connection.close()

"""What goes over the side channel: frames of a fixed binary layout, each kind with a bound.

    magic "K2MX", version u8, kind u8, length u32, little endian; then so many bytes

Nothing is evaluated and nothing unpickled; what is no frame ends the connection.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC, VERSION = b"K2MX", 1
_HEAD = struct.Struct("<4sBBI")


class Kind(IntEnum):
    """What a frame is; its bound is in LIMITS."""

    HELLO = 0  # secret, rank u32, host name: a rank comes to rank 0
    WELCOME = 1  # host names of all ranks: all have come
    BEAT = 2
    TELL = 3  # rank 0 to the others
    GATHER = 4  # to rank 0
    GATHERED = 5  # to all
    REPORT = 6  # bytes loaded, bytes to load, u64
    STOP = 7  # to rank 0: somebody wants this to end
    FAIL = 8  # to rank 0: why this rank cannot go on
    LOST = 9  # from rank 0: why nobody can
    BYE = 10  # nothing comes after this


LIMITS = {
    Kind.HELLO: 16 + 4 + 255,
    Kind.WELCOME: 1 << 20,
    Kind.BEAT: 0,
    Kind.TELL: 1 << 26,
    Kind.GATHER: 1 << 16,
    Kind.GATHERED: 1 << 26,
    Kind.REPORT: 16,
    Kind.STOP: 0,
    Kind.FAIL: 4096,
    Kind.LOST: 8192,
    Kind.BYE: 0,
}


class WireError(Exception):
    """Something else than frames came, or more than a frame may hold is to be sent."""


class Frame(NamedTuple):
    kind: Kind
    content: bytes


def encode(kind: Kind, content: bytes = b"") -> bytes:
    """One frame. Raises: WireError for more than its kind may hold."""
    if len(content) > LIMITS[kind]:
        raise WireError(f"{kind.name}: {len(content)} bytes, {LIMITS[kind]} are allowed")
    return _HEAD.pack(MAGIC, VERSION, kind, len(content)) + content


def receive(connection: socket.socket, only: Kind | None = None) -> Frame:
    """The next frame; waits for it as long as the socket's timeout says.

    only: the kind that may come; of another not even the content is read.

    Raises: WireError for anything else, EOFError where the connection ended, OSError.
    """
    magic, version, kind, length = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if magic != MAGIC:
        raise WireError(f"{magic!r} is not how a message of k2mlx begins")
    if version != VERSION:
        raise WireError(f"it speaks version {version} of the side channel, this is {VERSION}")
    if kind not in LIMITS or length > LIMITS[Kind(kind)]:
        raise WireError(f"a message of kind {kind} with {length} bytes")
    if only is not None and kind != only:
        raise WireError(f"a message of kind {Kind(kind).name}, {only.name} was due")
    return Frame(Kind(kind), _exactly(connection, length))


def pack(parts: list[bytes]) -> bytes:
    """Several contents as one."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(content: bytes) -> list[bytes]:
    """The inverse. Raises: WireError."""
    parts, place = [], 0
    while place < len(content):
        if place + 4 > len(content):
            raise WireError("a list that is cut off")
        (length,) = struct.unpack_from("<I", content, place)
        place += 4 + length
        if place > len(content):
            raise WireError("a list that is cut off")
        parts.append(content[place - length : place])
    return parts


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = connection.recv(min(count - len(got), 1 << 20))
        if not piece:
            raise EOFError
        got += piece
    return bytes(got)

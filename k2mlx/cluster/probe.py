"""How fast two hosts reach each other by TCP:

    python -m k2mlx.cluster.probe listen ADDRESS               prints its port; serves one other
    python -m k2mlx.cluster.probe connect OWN ADDRESS PORT     prints JSON

Both read a secret from standard input (an argument could be seen by other users) and end after
ALARM seconds, the listener also when its input does: nobody asks any more. It serves only who
proves that it knows the secret. Not run on a Mac.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import signal
import socket
import statistics
import sys
import threading
import time
from contextlib import suppress
from typing import Any

ALARM = 30  # seconds until either ends, whatever happens
STRANGER = 3.0  # seconds for who connects to prove that it knows the secret
CONNECT = 8.0
NONCE, PROOF, PING, ACCOUNT = 16, 32, 64, 8  # bytes
ROUNDS, ROUNDS_TIME = 200, 1.0  # as many, or as long
BULK_TIME, PIECE = 0.5, 1 << 18  # seconds, bytes


def main(argv: list[str]) -> int:
    signal.alarm(ALARM)
    secret = sys.stdin.readline().strip().encode()
    try:
        match argv:
            case ["listen", address] if secret:
                threading.Thread(target=_end_with_input, daemon=True).start()
                listen(address, secret)
            case ["connect", own, address, port] if secret:
                print(json.dumps(connect(own, address, int(port), secret)))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        print(json.dumps({"error": error.strerror or str(error), "name": name}))
        return 1
    return 0


def listen(address: str, secret: bytes) -> None:
    """Print the port; answer the first that knows the secret. Raises: OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        print(json.dumps({"port": server.getsockname()[1]}), flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                if _knows(connection, secret):
                    _answer(connection)
                    return


def connect(own: str, address: str, port: int, secret: bytes) -> dict[str, Any]:
    """round_trip: seconds, the median. bandwidth: bytes/s, one way. Raises: OSError."""
    with socket.create_connection((address, port), CONNECT, (own, 0)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(hmac.digest(secret, _read(link, NONCE), "sha256"))
        times, limit = [], time.monotonic() + ROUNDS_TIME
        while len(times) < ROUNDS and (not times or time.monotonic() < limit):
            start = time.perf_counter()
            link.sendall(b"p" * PING)
            _read(link, PING)
            times.append(time.perf_counter() - start)
        link.sendall(b"b" * PING)
        link.settimeout(ALARM)
        start, piece = time.perf_counter(), bytes(PIECE)
        while time.perf_counter() - start < BULK_TIME:
            link.sendall(piece)
        link.shutdown(socket.SHUT_WR)
        count = int.from_bytes(_read(link, ACCOUNT), "big")
        return {
            "round_trip": statistics.median(times),
            "bandwidth": count / (time.perf_counter() - start),
        }


def _end_with_input() -> None:
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 1 << 10):
            pass
    os._exit(1)


def _knows(connection: socket.socket, secret: bytes) -> bool:
    nonce = secrets.token_bytes(NONCE)
    connection.settimeout(STRANGER)
    try:
        connection.sendall(nonce)
        return hmac.compare_digest(_read(connection, PROOF), hmac.digest(secret, nonce, "sha256"))
    except OSError:
        return False


def _answer(connection: socket.socket) -> None:
    """Send back each ping; of what comes after the first b, count the bytes."""
    connection.settimeout(ALARM)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while (ping := _read(connection, PING))[:1] == b"p":
        connection.sendall(ping)
    count = 0
    while piece := connection.recv(PIECE):
        count += len(piece)
    connection.sendall(count.to_bytes(ACCOUNT, "big"))


def _read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the other end closed the connection")
        got += piece
    return got


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

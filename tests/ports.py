"""Ports of this machine for what tests start: tests that run at once must not meet."""

import os
import socket


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for start in range(41000 + os.getpid() % 500 * 16, 60000, 16):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for i, s in enumerate(sockets):
                s.bind(("127.0.0.1", start + i))
            return start
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
    raise AssertionError("no free ports")

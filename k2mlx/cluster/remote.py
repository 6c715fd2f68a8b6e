"""Commands on another machine, by the ssh that is in PATH; on 127.0.0.1 without it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ClusterError, ConfigError
from .hostfile import LOCAL, NAME

CONNECT = 5  # seconds for ssh to reach a host
ANSWER = 20.0  # seconds for a host to answer a question
SSH = ("ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT}", "-o", "LogLevel=ERROR")
UNREACHABLE = 255  # ssh's own exit code


class Unreachable(ClusterError):
    """A host does not answer."""


class Completed(NamedTuple):
    code: int
    out: str
    err: str


class Remote:
    """host: what ssh is told."""

    def __init__(self, host: str) -> None:
        if not NAME.fullmatch(host):
            raise ConfigError(f"host: got {host!r}, wanted a name or an address for ssh")
        self.host = host

    def run(self, argv: Sequence[str], *, timeout: float, text: str = "") -> Completed:
        """A command to its end, with `text` as its input. Raises: Unreachable."""
        try:
            done = subprocess.run(
                self.command(argv), input=text, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"{self.host}: no answer within {timeout:.0f} s; is it switched on, and awake?"
            ) from None
        except OSError as error:
            raise Unreachable(f"{self.host}: {error.strerror}: {error.filename}") from error
        if done.returncode == UNREACHABLE and self.host != LOCAL:
            why = done.stderr.strip().splitlines()
            raise Unreachable(
                f"{self.host}: ssh says: {why[-1] if why else 'nothing'}; try 'ssh {self.host}'"
            )
        return Completed(done.returncode, done.stdout, done.stderr)

    def command(self, argv: Sequence[str]) -> list[str]:
        """What runs `argv` there."""
        if self.host == LOCAL:
            return list(argv)
        return [*SSH, self.host, shlex.join(argv)]

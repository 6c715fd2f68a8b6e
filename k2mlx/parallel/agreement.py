"""What ranks agree on while they run the same engine.

Rank 0 sees the requests, the clock and the tokens, and tells the others; see channel.py for how.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..errors import ClusterError
from ..model import Model
from ..runner import Runner

_TOKENS = struct.Struct("<cdI")
_ID = np.dtype("<u4")


class Told(Protocol):
    """What of channel.Channel is used while a model runs."""

    rank: int
    size: int

    def tell(self, payload: bytes) -> None: ...

    def hear(self, timeout: float | None = None) -> bytes: ...

    def vote(self, value: int) -> int: ...


class Agreement:
    """Tokens and time, alike on all ranks.

    The time is rank 0's at its last `read`: whatever is decided by it is decided alike.
    """

    def __init__(self, channel: Told) -> None:
        self.channel = channel
        self._now = 0.0

    def clock(self) -> float:
        """Seconds."""
        return self._now

    def read(self, ids: mx.array | list[int]) -> list[int]:
        """The ids [n] that rank 0 has, on every rank."""
        if self.channel.rank == 0:
            values: Any = ids.tolist() if isinstance(ids, mx.array) else ids
            self._now = time.perf_counter()
            self.channel.tell(_encode(values, self._now))
            return values
        values, self._now = _decode(self.channel.hear(), len(ids))
        return values


def _encode(values: Sequence[int], now: float) -> bytes:
    return _TOKENS.pack(b"T", now, len(values)) + np.asarray(values, _ID).tobytes()


def _decode(content: bytes, wanted: int) -> tuple[list[int], float]:
    try:
        kind, now, count = _TOKENS.unpack_from(content)
        values = np.frombuffer(content, _ID, offset=_TOKENS.size).tolist()
    except (struct.error, ValueError):
        kind, now, count, values = b"", 0.0, 0, []
    if kind != b"T" or not wanted == count == len(values):
        raise ClusterError(
            f"rank 0's message: got {content[:1]!r} with {len(values)} tokens, wanted {wanted}"
            " tokens; the ranks are out of step, start them again and report this"
        )
    return values, now


class Together(Runner):
    """Every rank computes every step, of a share of each matrix (tensor.py): all have the logits,
    and choose alike; rank 0's choice is what they read."""

    shared = True

    def __init__(self, model: Model, vocabulary: int, agreement: Agreement) -> None:
        super().__init__(model, vocabulary, agreement.clock)
        self._agreement = agreement

    def read(self, ids: mx.array) -> list[int]:
        return self._agreement.read(ids)

"""What attention remembers of the tokens so far: one latent vector and one rotary key each.

K2 keeps kv_lora_rank + qk_rope_head_dim = 576 values a token a layer for all 64 heads together.
"""

from __future__ import annotations

import mlx.core as mx


class LatentCache:
    """The latent rows [B, offset, kv_lora_rank + qk_rope_head_dim] of one layer.

    The buffer grows by `step` rows at a time, so that most tokens are written in place.
    """

    step = 256
    form = "16"  # names how rows are stored: part of every key under which they are kept

    def __init__(self) -> None:
        self.offset = 0
        self._rows: mx.array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return 0 if self._rows is None else self._rows.nbytes

    def append(self, rows: mx.array) -> mx.array:
        """Add rows [B, L, C + R] for the positions offset .. offset + L; returns all rows so
        far."""
        end = self.offset + rows.shape[1]
        if self._rows is None or end > self._rows.shape[1]:
            grown = mx.zeros(
                (rows.shape[0], -(-end // self.step) * self.step, rows.shape[2]), rows.dtype
            )
            if self._rows is not None:
                grown[:, : self.offset] = self._rows[:, : self.offset]
            self._rows = grown
        self._rows[:, self.offset : end] = rows
        self.offset = end
        return self._rows[:, :end]

    def export(self, start: int, stop: int) -> dict[str, mx.array]:
        """The stored arrays of the positions start .. stop, as copies that hold no more than
        that; axis 1 is the position."""
        if not 0 <= start <= stop <= self.offset:
            raise ValueError(f"export: got {start} to {stop}, wanted a part of 0 to {self.offset}")
        if self._rows is None:
            return {}
        return {"rows": mx.take(self._rows, mx.arange(start, stop), axis=1)}

    def extend(self, parts: dict[str, mx.array]) -> None:
        """Append what `export` of a cache of the same form gave."""
        if parts:
            self.append(parts["rows"])

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens, at most all of them."""
        if not 0 <= count <= self.offset:
            raise ValueError(f"trim: got {count}, wanted 0 to {self.offset}")
        self.offset -= count

    @property
    def state(self) -> mx.array | None:
        """The rows in use [B, offset, C + R], or None before the first."""
        return None if self._rows is None else self._rows[:, : self.offset]

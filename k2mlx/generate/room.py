"""What running requests may allocate in caches: foreseen, so that no request dies of it.

Counted in rows, a row being a token in the caches of all layers, and multiplied by its bytes at
the end: ranks that hold different layers decide alike. For requests of known lengths, each the most
that it may come to hold:

    own       each request's cache, in steps of STEP positions: while it fills, while it decodes
              alone, and again when a batch gives its rows back
    batch     with two or more: slots as long as the longest; what a batch has allocated stays until
              half is enough (cache.py), so no less than that
    copy      for the prefix store, of what a running request has of another's prompt: the longest
    growing   one layer of the largest of these has its old and its new buffer for a moment

What is kept of earlier prompts shares the memory and yields: `for_kept` says what is left for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from k2mlx.cache import STEP
from k2mlx.errors import RequestError
from k2mlx.progress import size_words

Held = tuple[int, int]  # slots and positions that a batch has allocated


@dataclass(frozen=True)
class Room:
    """row: bytes of a token in the cache; memory: bytes for all; streams: requests at once; layers:
    the fewest that a rank has; lanes: batches that requests may be spread over; copies: whether
    there is a prefix store."""

    row: int
    memory: int
    streams: int
    layers: int = 1
    lanes: int = 1
    copies: bool = False

    def bytes_for(self, lengths: Sequence[int], held: Sequence[Held] = ()) -> int:
        """Bytes that requests of these lengths in tokens take at most, beside batches that hold so
        much already."""
        return self.row * self._rows(lengths, held)

    def _rows(self, lengths: Sequence[int], held: Sequence[Held]) -> int:
        if not lengths:
            return sum(slots * positions for slots, positions in held)
        own = [_steps(length) for length in lengths]
        # A lane keeps old slots or gets new ones; which of several gets them is not known yet.
        kept = sum(slots for slots, _ in held)
        count = len(own) if len(own) > 1 else 0
        slots = max(count, kept) if self.lanes == 1 else count + kept
        batch = slots * max(max(own), *(positions for _, positions in held), 0)
        copy = max(own) if self.copies and len(own) > 1 else 0
        growing = -(-max(batch, *own) // self.layers)
        return sum(own) + batch + copy + growing

    def for_kept(self, lengths: Sequence[int], held: Sequence[Held] = ()) -> int:
        """Bytes that these requests leave for what is kept of others."""
        return max(0, self.memory - self.bytes_for(lengths, held))

    def check(self, prompt: int, limit: int) -> None:
        """Raises RequestError for a request that would not fit even alone."""
        wanted = self.bytes_for([prompt + limit])
        if wanted > self.memory:
            raise RequestError(
                f"prompt of {prompt} tokens and up to {limit} more would take"
                f" {size_words(wanted)} of cache, there are {size_words(self.memory)}, room for"
                f" {self.most()} tokens; lower max_tokens or shorten the prompt"
            )

    def most(self) -> int:
        """The longest request that fits alone, in tokens."""
        rows = self.memory // self.row
        steps = rows * self.layers // ((self.layers + 1) * STEP)
        return steps * STEP

    def fits(self, lengths: Sequence[int], length: int, held: Sequence[Held] = ()) -> bool:
        """Whether one more fits beside requests of these lengths."""
        if not lengths:
            return True
        enough = self.bytes_for([*lengths, length], held) <= self.memory
        return enough and len(lengths) < self.streams


def _steps(length: int) -> int:
    """Positions that a cache allocates for so many tokens."""
    return -(-length // STEP) * STEP

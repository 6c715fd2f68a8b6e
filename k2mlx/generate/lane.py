"""Streams that decode together: one alone, with guesses if they pay, or several in one batch.

On one machine there is one lane. A pipeline of several has as many as stages, so that each stage
computes for one lane while the others compute for the rest.
"""

from __future__ import annotations

from k2mlx.cache import LatentCache
from k2mlx.generate.batch import Batch
from k2mlx.generate.job import Stream
from k2mlx.runner import Runner

Found = list[tuple[Stream, list[int]]]  # the next tokens of each stream


class Lane:
    """streams: those that it decodes, in the order they came."""

    def __init__(self, runner: Runner) -> None:
        self.streams: list[Stream] = []
        self._runner = runner
        self._batch: Batch | None = None

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def held(self) -> tuple[int, int]:
        """Slots and positions that its batch has allocated."""
        return (0, 0) if self._batch is None else self._batch.held

    def join(self, stream: Stream) -> None:
        """A stream whose prompt is computed decodes here from the next step on."""
        self.streams.append(stream)

    def alone(self) -> list[Stream]:
        """Those that take their next step alone: the only one, and prompts of one token, for a
        batch takes rows."""
        if len(self.streams) == 1 and self._batch is None:
            return list(self.streams)
        return [stream for stream in self.streams if stream.sequence.starts_empty]

    def together(self) -> Found:
        """A step of all streams but one that is alone; what they got in the last."""
        if not self.streams or (len(self.streams) == 1 and self._batch is None):
            return []
        self._batch = self._batch or Batch(self._runner)
        for stream in self.streams:
            if stream.sequence not in self._batch:
                self._batch.join(stream.sequence)
        streams = {id(stream.sequence): stream for stream in self.streams}
        return [(streams[id(sequence)], [token]) for sequence, token in self._batch.step()]

    def settle(self) -> None:
        """Whoever is left of a batch goes on alone."""
        if self._batch is not None and len(self._batch) == 1:
            self._leave(self.streams[0], with_cache=True)

    def leave(self, stream: Stream, *, with_cache: bool) -> None:
        """Go on without a stream. with_cache: its sequence has its rows then."""
        self.streams.remove(stream)
        self._leave(stream, with_cache=with_cache)

    def clear(self) -> None:
        """Forget all streams and the rows of their batch."""
        self.streams.clear()
        self._batch = None

    def filled(self, stream: Stream) -> int:
        """How many tokens the rows of a stream are of."""
        sequence = stream.sequence
        if self._batch is not None and sequence in self._batch:
            return self._batch.filled(sequence)
        return sequence.filled

    def copied(self, stream: Stream) -> list[LatentCache] | None:
        """A stream's rows that a batch has, and keeps; None where they are its own."""
        if self._batch is not None and stream.sequence in self._batch:
            return self._batch.copy(stream.sequence)
        return None

    def _leave(self, stream: Stream, *, with_cache: bool) -> None:
        if self._batch is not None and stream.sequence in self._batch:
            self._batch.leave(stream.sequence, with_cache=with_cache)
            if not len(self._batch):
                self._batch = None

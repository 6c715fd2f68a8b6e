"""Sequences that decode together: one step of the model computes the next token of each.

They come and go between steps. While the host hands out the tokens of one step the device computes
the next, whatever comes or goes. Everything here runs on the engine's thread.
"""

from __future__ import annotations

import mlx.core as mx

from k2mlx.cache import LatentCache
from k2mlx.generate.sequence import Sequence
from k2mlx.runner import Runner


class Batch:
    """Sequence i of the batch has slot i of the cache, and slots are dense: when one leaves, the
    last takes its place."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._cache = runner.make_batch_cache()
        self._sequences: list[Sequence] = []
        self._input: mx.array | None = None  # the tokens of the next step [B]
        self._unseen: list[bool] = []  # whether the host still has to read that token

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._sequences

    @property
    def held(self) -> tuple[int, int]:
        """Slots and positions that its cache has allocated."""
        return self._cache.held

    def join(self, sequence: Sequence) -> None:
        """Take a sequence whose prompt is computed; its cache is copied and given up."""
        self._cache.admit(sequence.cache)
        token, unseen = sequence.hand_over()
        tokens = [token] if self._input is None else [self._input, token]
        self._input = mx.concatenate([self._runner.present(ids) for ids in tokens])
        self._sequences.append(sequence)
        self._unseen.append(unseen)

    def step(self) -> list[tuple[Sequence, int]]:
        """Launch the next step; returns the tokens of the last, for sequences that were in it."""
        assert self._input is not None
        current, filled = self._input, list(self._cache.lengths)
        self._input = self._runner.choose(
            current,
            self._cache,
            lambda logits_BLV: self._choose(logits_BLV[:, -1], filled),
        )
        found = []
        if any(self._unseen):
            values = self._runner.read(current)
            for sequence, unseen, token in zip(self._sequences, self._unseen, values, strict=True):
                if unseen:
                    sequence.tokens.append(token)
                    found.append((sequence, token))
        self._unseen = [True] * len(self)
        return found

    def leave(self, sequence: Sequence, *, with_cache: bool) -> None:
        """Go on without a sequence, which gets its rows back if they are wanted."""
        assert self._input is not None
        slot, last = self._sequences.index(sequence), len(self) - 1
        current = self._runner.present(self._input)
        if with_cache:
            unseen = current[slot : slot + 1] if self._unseen[slot] else None
            sequence.take_back(self._cache.take(slot), unseen)
        self._cache.release(slot)
        self._sequences[slot] = self._sequences[last]
        self._unseen[slot] = self._unseen[last]
        self._sequences.pop()
        self._unseen.pop()
        order = [last if i == slot else i for i in range(last)]
        self._input = current[mx.array(order)] if order else None

    def copy(self, sequence: Sequence) -> list[LatentCache]:
        """Its rows, which stay here too."""
        return self._cache.take(self._sequences.index(sequence))

    def filled(self, sequence: Sequence) -> int:
        """How many tokens its rows are of."""
        return self._cache.lengths[self._sequences.index(sequence)]

    def _choose(self, logits_BV: mx.array, filled: list[int]) -> mx.array:
        if all(sequence.greedy for sequence in self._sequences):
            return mx.argmax(logits_BV, axis=-1).astype(mx.int32)
        rows = zip(self._sequences, mx.split(logits_BV, len(self)), filled, strict=True)
        return mx.concatenate([s.choose(row, n).astype(mx.int32) for s, row, n in rows])

"""What sequences and batches ask of whatever computes: here one model on one device.

parallel/ answers the same calls on several machines: every rank makes the same ones in the same
order, and all of them read the same tokens and the same clock.

Legend: B sequences, L tokens of each, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from .cache import BatchCache, LatentCache
from .model import Model

Pick = Callable[[mx.array], mx.array]  # logits [B, L, V] -> ids [B * L]
Pending = list[Any]  # arrays, or lists of them


class Runner:
    """vocabulary: tokens that may be chosen; a model's own may be padded.

    lanes: how many sets of sequences should decode independently, so that each stage of a pipeline
    has one to work on. shared: other ranks run along, so that an error here is an error of all.
    """

    lanes = 1
    shared = False

    def __init__(
        self, model: Model, vocabulary: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.clock = clock
        """Seconds, for what is decided by how long steps take."""

    def make_cache(self) -> list[LatentCache]:
        return self.model.make_cache()

    def make_batch_cache(self) -> BatchCache:
        return self.model.make_batch_cache()

    def fill(self, tokens: Sequence[int], cache: list[LatentCache], following: int = 0) -> Pending:
        """Start to compute the rows of these tokens; returns what `wait` waits for. following: how
        many tokens the next call will bring, where it is sure to be this one again, else 0."""
        self.model.hidden(mx.array([tokens]), cache)
        pending = [layer.state for layer in cache]
        mx.async_eval(pending)
        return pending

    def wait(self, pending: Pending) -> None:
        mx.eval(pending)

    def choose(self, ids: mx.array, cache: list[LatentCache] | BatchCache, pick: Pick) -> mx.array:
        """Start to compute the tokens that `pick` chooses after each of these [B * L], which go
        into the cache: one of each sequence of a batch, or several of one sequence. Returns ids
        [B * L], int32, not waited for."""
        logits_BLV = self.model(shaped(ids, cache), cache)
        ids = pick(logits_BLV[..., : self.vocabulary]).astype(mx.int32)
        mx.async_eval(ids)
        return ids

    def present(self, ids: mx.array) -> mx.array:
        """The ids of `choose`, to be computed with otherwise than by `choose`."""
        return ids

    def read(self, ids: mx.array) -> list[int]:
        """The ids, when they are there."""
        return ids.tolist()  # ty: ignore[invalid-explicit-return]

    def settle(self) -> None:
        """Nothing will be asked any more: let go of what was begun."""


def shaped(ids: mx.array, cache: list[LatentCache] | BatchCache) -> mx.array:
    """Ids [B * L] as tokens [B, L]: of a batch each has one, else one sequence has them all."""
    return ids[:, None] if isinstance(cache, BatchCache) else ids[None]

"""Token shards to training batches: a pure function of (seed, step), so that resuming is exact.

Every source of rows numbers its rows from 0 for ever; `take(first, count)` gives some of them and
`batch(step, rows)` gives those of a step. A batch is a dict of three arrays:

    tokens    int32   [B, L+1]
    segments  int32   [B, L+1]  tokens attend within equal segments; padding is segment -1
    loss      float32 [B, L]    weight of predicting tokens[:, 1:] from what stands before

Legend: B rows, L predictions in a row, W = L + 1 tokens in a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from k2mlx.data.shards import ChatShard, TextShard
from k2mlx.errors import ConfigError

PAD, END = 0, 3  # ids of [PAD] and [EOS] in the vocabularies that k2mlx.data.vocabulary trains
Batch: TypeAlias = dict[str, np.ndarray]


class Rows(ABC):
    """An endless, numbered supply of rows of `length` predictions."""

    length: int

    @abstractmethod
    def take(self, first: int, count: int) -> Batch:
        """Rows first to first + count - 1."""

    def batch(self, step: int, rows: int) -> Batch:
        """The rows of one step, when every step takes as many."""
        return self.take(step * rows, rows)


class TextRows(Rows):
    """Windows at random places of text shards, each shard with its weight in the mixture.

    Predicting the first token of the next document has no weight: nothing before it says what
    comes. Raises ConfigError for a shard shorter than one row or weights that are no shares.
    """

    def __init__(self, shards: Sequence[tuple[TextShard, float]], length: int, seed: int):
        self.length, self._seed = length, seed
        for shard, weight in shards:
            if len(shard.tokens) < length + 1:
                raise ConfigError(
                    f"text shard {shard.name}: {len(shard.tokens)} tokens are fewer than a row of "
                    f"{length + 1}; use shorter rows or leave the shard out."
                )
            if not weight >= 0:
                raise ConfigError(f"text shard {shard.name}: weight {weight} is not 0 or more.")
        self._shards = [shard.tokens for shard, weight in shards if weight > 0]
        if not self._shards:
            raise ConfigError("text rows: no shard has a weight above 0.")
        weights = np.array([weight for _, weight in shards if weight > 0], np.float64)
        self._ceilings = np.cumsum(weights / weights.sum())

    def take(self, first: int, count: int) -> Batch:
        numbers_B = np.arange(first, first + count, dtype=np.uint64)
        shard_B = np.searchsorted(self._ceilings, _uniform(numbers_B, self._seed, 0), side="right")
        shard_B = np.minimum(shard_B, len(self._shards) - 1)
        place_B = _uniform(numbers_B, self._seed, 1)
        tokens_BW = np.empty((count, self.length + 1), np.int32)
        for row, (shard, place) in enumerate(zip(shard_B, place_B, strict=True)):
            source = self._shards[shard]
            start = int(place * (len(source) - self.length))
            tokens_BW[row] = source[start : start + self.length + 1]
        ends_BW = tokens_BW == END
        segments_BW = np.cumsum(ends_BW, axis=1, dtype=np.int32) - ends_BW
        loss_BL = (~ends_BW[:, :-1]).astype(np.float32)
        return {"tokens": tokens_BW, "segments": segments_BW.astype(np.int32), "loss": loss_BL}


def _uniform(numbers: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """A number in [0, 1) for each row number, by splitmix64: row n needs no rows before it."""
    with np.errstate(over="ignore"):
        key = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
        z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class ChatRows(Rows):
    """Whole conversations packed into rows, in a new order each epoch.

    A shard's weight is how often each of its conversations comes in an epoch; of a fraction's
    worth, another random part comes each time. Conversations longer than a row are left out;
    `left_out` counts them by shard.
    """

    def __init__(self, shards: Sequence[tuple[ChatShard, float]], length: int, seed: int):
        self.length, self._seed = length, seed
        self._shards = [shard for shard, _ in shards]
        self.left_out: dict[str, int] = {}
        pools = []
        for number, (shard, weight) in enumerate(shards):
            if not weight >= 0:
                raise ConfigError(f"chat shard {shard.name}: weight {weight} is not 0 or more.")
            sizes = np.diff(shard.offsets)
            fits = np.flatnonzero(sizes <= length + 1)
            self.left_out[shard.name] = len(sizes) - len(fits)
            pools.append((np.column_stack([np.full(len(fits), number), fits]), weight))
        self._pools = pools
        self._first_rows = [0]  # of each epoch planned so far, then of the next one
        self._plans: dict[int, list[list[tuple[int, int]]]] = {}
        if not self._plan(0):
            raise ConfigError(
                f"chat rows: no conversation fits a row of {length + 1} tokens; use longer rows."
            )

    def epoch(self, number: int) -> list[list[tuple[int, int]]]:
        """The rows of an epoch; a row is a list of (shard number, conversation number)."""
        while len(self._first_rows) <= number:
            self._plan(len(self._first_rows) - 1)
        return self._plan(number)

    def take(self, first: int, count: int) -> Batch:
        tokens_BW = np.full((count, self.length + 1), PAD, np.int32)
        segments_BW = np.full((count, self.length + 1), -1, np.int32)
        learn_BW = np.zeros((count, self.length + 1), bool)
        for row in range(count):
            at = 0
            for segment, (number, conversation) in enumerate(self._row(first + row)):
                shard = self._shards[number]
                start, end = shard.offsets[conversation : conversation + 2]
                to = at + end - start
                tokens_BW[row, at:to] = shard.tokens[start:end]
                learn_BW[row, at:to] = shard.loss[start:end]
                segments_BW[row, at:to] = segment
                learn_BW[row, at] = False  # nothing stands before a conversation's first token
                at = to
        loss_BL = learn_BW[:, 1:].astype(np.float32)
        return {"tokens": tokens_BW, "segments": segments_BW, "loss": loss_BL}

    def _row(self, number: int) -> list[tuple[int, int]]:
        while self._first_rows[-1] <= number:
            self._plan(len(self._first_rows) - 1)
        epoch = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        return self._plan(epoch)[number - self._first_rows[epoch]]

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        if epoch not in self._plans:
            plan = self._new_plan(epoch)
            if epoch == len(self._first_rows) - 1:
                self._first_rows.append(self._first_rows[-1] + len(plan))
            while len(self._plans) > 1:  # a batch may reach into the next epoch, never further back
                del self._plans[min(self._plans)]
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _new_plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        chance = np.random.default_rng([self._seed, epoch])
        chosen = []
        for pool, weight in self._pools:
            whole, part = divmod(weight, 1)
            chosen += [pool] * int(whole)
            chosen.append(pool[chance.permutation(len(pool))[: round(part * len(pool))]])
        every = np.concatenate(chosen) if chosen else np.empty((0, 2), np.int64)
        every = every[chance.permutation(len(every))]
        sizes = np.empty(len(every), np.int64)
        for number, shard in enumerate(self._shards):
            mine = every[:, 0] == number
            sizes[mine] = np.diff(shard.offsets)[every[mine, 1]]
        rows = best_fit(sizes.tolist(), self.length + 1)
        members = every.tolist()
        order = chance.permutation(len(rows))
        return [[(members[item][0], members[item][1]) for item in rows[row]] for row in order]


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items, in their order, each into the open row that it fills best.

    Returns item numbers by row.

    `room` has bit r set when some row has r tokens left, so that the best row is its lowest bit at
    or above the size: a step takes no longer with many rows open.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]
    room = 0
    for item, size in enumerate(sizes):
        assert 0 < size <= capacity, (size, capacity)
        fitting = room >> size
        if fitting:
            left = (fitting & -fitting).bit_length() - 1 + size
            row = open_rows[left].pop()
            if not open_rows[left]:
                room &= ~(1 << left)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        left -= size
        if left:
            open_rows[left].append(row)
            room |= 1 << left
    return rows


class Mixture(Rows):
    """Rows of several sources in every batch, a fixed number of each, shuffled.

    Shares are rounded to whole rows; ConfigError when a source with a share would get none.
    """

    def __init__(self, sources: Sequence[tuple[Rows, float]], rows: int, seed: int):
        lengths = {source.length for source, _ in sources}
        if len(lengths) != 1:
            raise ConfigError(f"mixture: all sources need rows of one length, got {lengths}.")
        self.length, self._seed, self._rows = lengths.pop(), seed, rows
        self._sources = [source for source, _ in sources]
        self.counts = shares([share for _, share in sources], rows)

    def batch(self, step: int, rows: int) -> Batch:
        if rows != self._rows:
            raise ConfigError(f"mixture: made for {self._rows} rows a step, asked for {rows}.")
        return self.take(step * rows, rows)

    def take(self, first: int, count: int) -> Batch:
        step, rest = divmod(first, self._rows)
        assert rest == 0 and count == self._rows, "a mixture gives whole steps"
        parts = [
            source.batch(step, size)
            for source, size in zip(self._sources, self.counts, strict=True)
            if size
        ]
        order = np.random.default_rng([self._seed, step]).permutation(count)
        return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}


def shares(weights: Sequence[float], rows: int) -> list[int]:
    """Whole rows by weight, the largest remainders rounded up."""
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError(f"mixture: shares must be 0 or more and not all 0, got {list(weights)}.")
    exact = np.array(weights, np.float64) / sum(weights) * rows
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: rows - counts.sum()]:
        counts[index] += 1
    if any(weight > 0 and count == 0 for weight, count in zip(weights, counts, strict=True)):
        raise ConfigError(
            f"mixture: {rows} rows are too few for the shares {list(weights)}; "
            "use more rows a step."
        )
    return counts.tolist()

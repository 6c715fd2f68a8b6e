"""Caches of earlier requests, kept so that a prompt computes only what no request computed before.

An entry is a run of tokens and the latent rows that a model computed for them. A prompt takes the
entry with which it shares the longest beginning:

    the entry is a beginning of the prompt      it is moved out: the conversation goes on, no copy
    they part somewhere                         the shared rows are copied, and the entry stays for
                                                its own branch; so a system prompt that many
                                                conversations share is computed once
    the disk holds more of the prompt (disk.py) what it has beyond the shared rows is read

Everything here runs on the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.errors import CheckpointError
from k2mlx.generate.memory import PrefixSettings, default_budget
from k2mlx.load import Loaded
from k2mlx.parallel.group import Group

if TYPE_CHECKING:
    from k2mlx.generate.disk import DiskStore

ROUND = 256  # positions: what is cut is cut to a multiple, as caches allocate


class Taken(NamedTuple):
    """What a prompt begins with: a cache of `tokens` tokens, `from_disk` of them read from disk."""

    cache: list[LatentCache] | None
    tokens: int
    from_disk: int = 0


@dataclass
class Counters:
    """What the store has done so far. saved: tokens that were not computed again."""

    hits: int = 0
    misses: int = 0
    saved: int = 0
    from_disk: int = 0
    evictions: int = 0


@dataclass(eq=False)
class _Entry:
    tokens: np.ndarray
    cache: list[LatentCache]
    nbytes: int
    on_disk: int = 0  # tokens of it that have been given to the disk


class PrefixStore:
    """Entries under a budget of bytes; the one whose last use is longest ago goes first.

    make_cache: an empty cache of the model. A cache that is taken is no longer counted: its request
    owns it until it is kept again. agree: the least of what all ranks found on their disks, where
    there are several; what is in memory is the same on all, by the same calls.
    """

    def __init__(
        self,
        budget: int,
        make_cache: Callable[[], list[LatentCache]],
        disk: DiskStore | None = None,
        agree: Callable[[int], int] = int,
    ) -> None:
        self.budget = budget
        self.counters = Counters()
        self._make_cache = make_cache
        self._disk, self._agree = disk, agree
        self._entries: list[_Entry] = []  # the last used is last
        # One that is larger than the budget stays whole until it is on disk or a request begins.
        self._passing: _Entry | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now; never more than the budget (what is larger than that by itself
        and still on its way to the disk is not counted)."""
        return sum(entry.nbytes for entry in list(self._entries))

    def figures(self) -> dict[str, int]:
        """What the store holds and has done so far, for people and monitors; from any thread."""
        return {**asdict(self.counters), "entries": len(self._entries), "bytes": self.nbytes}

    @property
    def disk_budget(self) -> int:
        """Bytes that may be kept on disk."""
        return self._disk.budget if self._disk is not None else 0

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, prompt: Sequence[int]) -> Taken:
        """A cache that holds the longest known beginning of the prompt, for the caller to own.

        At least the prompt's last token is left to compute, because the first token of the answer
        is sampled from its logits.
        """
        self._passing = None
        wanted = np.asarray(prompt[:-1], np.int32)
        shared, entry = self._longest(wanted)
        known = self._on_disk(wanted)
        if known > shared:
            taken = self._from_disk(wanted, shared, entry)
        else:
            taken = Taken(self._from_memory(entry, shared), shared)
        counters = self.counters
        counters.hits += taken.tokens > 0
        counters.misses += taken.tokens == 0
        counters.saved += taken.tokens
        counters.from_disk += taken.from_disk
        return taken

    def known(self, prompt: Sequence[int]) -> int:
        """How many tokens `take` would give."""
        wanted = np.asarray(prompt[:-1], np.int32)
        shared, _ = self._longest(wanted)
        return max(shared, self._on_disk(wanted))

    def keep(self, tokens: Sequence[int], cache: list[LatentCache]) -> None:
        """Take over a cache that holds exactly these tokens. Entries that it goes on from are
        dropped, and it is dropped itself if an entry goes on from it."""
        assert all(layer.offset == len(tokens) for layer in cache)
        held = np.asarray(tokens, np.int32)
        if not len(held):
            return
        for entry in list(self._entries):
            shared = shared_length(entry.tokens, held)
            if shared == len(held):
                self._use(entry)
                return
            if shared == len(entry.tokens):
                self._entries.remove(entry)
        # Rows that a batch gave back are still to be copied, and hold on to all of it till then.
        mx.async_eval([layer.state for layer in cache])
        entry = _Entry(held, cache, _bytes(cache))
        if entry.nbytes > self.budget:
            self._passing = entry if self._disk is not None else None
            entry = self._cut(entry)
        if entry is not None:
            self._evict(entry.nbytes)
            self._entries.append(entry)

    def make_room(self, size: int) -> int:
        """Drop entries until `size` bytes more are within the budget; returns the bytes freed.

        With the whole budget as size everything goes: for whoever needs the memory more.
        """
        before, self._passing = self.nbytes, None
        self._evict(size)
        return before - self.nbytes

    def shrink(self, most: int, prompt: Sequence[int] | None = None) -> None:
        """Drop entries until at most so many bytes are kept. The entry that `take(prompt)` would
        give goes last; not at all, nor is it counted, where `take` gives it away whole."""
        self._passing = None
        given = 0
        if prompt is not None:
            shared, entry = self._longest(np.asarray(prompt[:-1], np.int32))
            if entry is not None:
                self._use(entry)
                given = entry.nbytes if shared == len(entry.tokens) else 0
        while self._entries and self.nbytes - given > most:
            self._entries.pop(0)
            self.counters.evictions += 1

    def save_some(self) -> bool:
        """Hand one more block of what is kept to the disk; False when all of it is there.

        For moments when no request waits: it copies a block's rows off the device, which takes
        milliseconds. The writing itself is done on the disk's own thread.
        """
        if self._disk is None or not self._disk.working:
            self._passing = None
            return False
        passing = [self._passing] if self._passing is not None else []
        for entry in [*passing, *reversed(self._entries)]:
            if entry.on_disk + self._disk.block <= len(entry.tokens):
                entry.on_disk = self._disk.save(entry.tokens, entry.cache, entry.on_disk)
                return True
        self._passing = None
        return False

    def clear(self) -> None:
        """Forget, and free the memory."""
        self._entries.clear()
        self._passing = None

    def close(self) -> None:
        """Save what is not on the disk yet, wait for it, and free the memory."""
        try:
            while self.save_some():
                pass
        finally:
            self.clear()
            if self._disk is not None:
                self._disk.close()

    def _on_disk(self, wanted: np.ndarray) -> int:
        return self._agree(self._disk.known(wanted)) if self._disk else 0

    def _evict(self, size: int) -> None:
        while self._entries and self.nbytes + size > self.budget:
            self._entries.pop(0)
            self.counters.evictions += 1

    def _longest(self, wanted: np.ndarray) -> tuple[int, _Entry | None]:
        best: tuple[int, _Entry | None] = 0, None
        for entry in reversed(self._entries):
            if (shared := shared_length(entry.tokens, wanted)) > best[0]:
                best = shared, entry
        return best

    def _from_memory(self, entry: _Entry | None, shared: int) -> list[LatentCache] | None:
        if entry is None or shared == 0:
            return None
        self._use(entry)
        if shared == len(entry.tokens):
            self._entries.remove(entry)
            return entry.cache
        return self._copied(entry.cache, shared)

    def _from_disk(self, wanted: np.ndarray, shared: int, entry: _Entry | None) -> Taken:
        """What memory has up to the last whole block, and the disk's blocks after it. A block that
        turns out to be damaged ends it; what memory has is then the least."""
        assert self._disk is not None
        start = shared // self._disk.block * self._disk.block
        parts, count = self._disk.read(wanted, start)
        count = self._agree(count)
        if start + count <= shared:
            return Taken(self._from_memory(entry, shared), shared)
        if entry is not None and start:
            self._use(entry)
            cache = self._copied(entry.cache, start)
        else:
            cache = self._make_cache()
        for layer, part in zip(cache, parts, strict=True):
            layer.extend({name: rows[:, :count] for name, rows in part.items()})
        _compute(cache)
        return Taken(cache, start + count, count)

    def _cut(self, entry: _Entry) -> _Entry | None:
        """The beginning of an entry that is larger than the budget by itself."""
        layers = [layer.export(0, 1).values() for layer in entry.cache]
        row = sum(part.nbytes for parts in layers for part in parts)
        count = min(self.budget // row, len(entry.tokens)) // ROUND * ROUND
        if count == 0:
            return None
        cache = self._copied(entry.cache, count)
        cut = _Entry(entry.tokens[:count], cache, _bytes(cache))
        return cut if cut.nbytes <= self.budget else None

    def _copied(self, cache: list[LatentCache], count: int) -> list[LatentCache]:
        copy = self._make_cache()
        for layer, new in zip(cache, copy, strict=True):
            new.extend(layer.export(0, count))
        _compute(copy)
        return copy

    def _use(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)


def open_store(
    loaded: Loaded, settings: PrefixSettings, row: int, group: Group | None = None
) -> PrefixStore:
    """The store for a model that has just been loaded, whose tokens take `row` bytes each; called
    on the engine's thread, on all ranks of a group alike."""
    budget = default_budget() if settings.memory is None else settings.memory
    disk = _open_disk(loaded, settings)
    if group is None:
        return PrefixStore(budget, loaded.model.make_cache, disk)
    budget = group.vote(budget // row) * row
    if group.vote(int(disk is not None)) == 0 and disk is not None:
        disk.close()
        disk = None
    return PrefixStore(budget, loaded.model.make_cache, disk, group.vote)


def _open_disk(loaded: Loaded, settings: PrefixSettings) -> DiskStore | None:
    if settings.disk == 0:
        return None
    from k2mlx import __version__
    from k2mlx.generate import disk
    from k2mlx.generate.identity import model_identity

    try:
        folder = settings.folder or disk.default_folder()
        size = disk.default_budget(folder) if settings.disk is None else settings.disk
        model = loaded.model
        whole = len(model.held) == loaded.config.num_hidden_layers
        held = f"layers {model.held.start} to {model.held.stop}"
        cache = model.make_cache()
        # The version too: rows that an error of ours made must not outlive it.
        form = f"k2mlx {__version__}, {held} of form {cache[0].form}, {model.dtype}"
        return disk.DiskStore(
            folder, size, f"{model_identity(loaded.path, None if whole else model.held)}, {form}"
        )
    except (OSError, CheckpointError) as error:
        disk.to_stderr(f"{error}; nothing is kept on disk")
        return None


def shared_length(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the longest common beginning."""
    length = min(len(a), len(b))
    differ = a[:length] != b[:length]
    return int(differ.argmax()) if differ.any() else length


def _bytes(cache: list[LatentCache]) -> int:
    return sum(layer.nbytes for layer in cache)


def _compute(cache: list[LatentCache]) -> None:
    """Now: a copy that waits to be computed would hold on to what it is copied from."""
    mx.eval([layer.state for layer in cache])

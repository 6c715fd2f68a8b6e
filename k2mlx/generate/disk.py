"""Kept prefixes on disk: what a model has read once survives a restart.

Files of 256 tokens each (block.py) in one folder that all models and processes share. The engine's
thread copies rows off the device when no request waits; a thread of the store's own writes them
aside, renames them, and keeps the folder within its budget, the files whose last use is longest ago
going first.

Whatever is wrong with a file (half written, damaged, another's) makes it as good as not there, and
it is removed. Whatever is wrong with the folder (full, not writable) switches the store off, with
one line. No answer ever fails or waits because of it.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.generate import block
from k2mlx.generate.block import BLOCK, Host, Label, Parts
from k2mlx.home import home

MOST = 20 * 10**9  # bytes, by default
SHARE = 10  # and at most one part in ten of what is free
WAITING = 8  # blocks on their way to the disk; more would take memory from the model
LOOK_EVERY = 16  # written blocks after which the folder is looked at: others write there too
ABANDONED = 600.0  # seconds after which a file that was not completed is nobody's
READERS = 4
SECOND = 10**9
_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


class _Write(NamedTuple):
    label: Label
    depth: int
    tensors: dict[str, Host]


class _Touch(NamedTuple):
    names: list[str]


def default_folder() -> Path:
    """Under the home folder, where `k2mlx clean` lists it as `cache`."""
    return home() / "cache" / "prefix"


def default_budget(folder: Path) -> int:
    """Bytes: 20 GB, but at most a tenth of what is free where the folder is or will be."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return min(MOST, shutil.disk_usage(place).free // SHARE)


def to_stderr(message: str) -> None:
    print(f"k2mlx: prefix cache: {message}", file=sys.stderr)


class DiskStore:
    """Blocks of one model's rows in a folder.

    budget: bytes of all blocks in the folder, whoever wrote them; two processes that write at once
    may pass it by what they write between two looks, 16 blocks each. identity: of the model, its
    dtype and the caches' form. warn: gets the line that says why the store was switched off.
    """

    block = BLOCK

    def __init__(
        self,
        folder: Path,
        budget: int,
        identity: str,
        warn: Callable[[str], None] = to_stderr,
    ) -> None:
        self.folder, self.budget, self.working = folder, budget, True
        self._identity, self._warn = identity, warn
        self._queue: queue.Queue[_Write | _Touch | None] = queue.Queue()
        self._asked: tuple[np.ndarray | None, list[Label]] = None, []
        self._waiting: set[str] = set()  # names in the queue; added here, removed by the writer
        self._total = self._written = 0  # the writer's: bytes in the folder, blocks since a look
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._look(0)
        except OSError as error:
            self._switch_off(error)
        self._writer = threading.Thread(target=self._write_all, name="prefix writer", daemon=True)
        self._writer.start()

    # Called on the engine's thread.

    def known(self, tokens: np.ndarray) -> int:
        """How many of the first tokens there are blocks for, as far as their names tell."""
        return BLOCK * len(self._present(tokens))

    def read(self, tokens: np.ndarray, start: int = 0) -> tuple[list[Parts], int]:
        """The rows of the tokens from `start`, a multiple of 256, as far as there are sound blocks:
        the parts of each layer, and how many tokens. A damaged block is removed and ends it."""
        present = self._present(tokens)
        wanted = present[start // BLOCK :]
        if not wanted:
            return [], 0
        blocks = []
        with ThreadPoolExecutor(min(READERS, len(wanted))) as pool:
            for label, tensors in zip(wanted, pool.map(self._load, wanted), strict=True):
                if tensors is None:
                    self._remove(label.name)
                    break
                blocks.append(tensors)
        self._queue.put(_Touch([label.name for label in present]))
        return (block.join_blocks(blocks), BLOCK * len(blocks)) if blocks else ([], 0)

    def save(self, tokens: np.ndarray, cache: Sequence[LatentCache], start: int) -> int:
        """Hand the first block from `start` on that is not there to the writer. Returns how many of
        the tokens have been looked after; all whole blocks, at the end of it.

        While many blocks wait to be written it waits a hundredth of a second and does nothing.
        """
        count = len(tokens) // BLOCK
        found = self._labels(tokens)
        if len(self._waiting) >= WAITING:
            time.sleep(0.01)
            return start
        for index in range(start // BLOCK, count):
            label = found[index]
            if label.name in self._waiting or os.path.exists(self._path(label.name)):
                continue
            tensors = block.export_block(cache, index * BLOCK)
            # A conversation that does not fit would only push its own beginning out.
            if (index + 1) * sum(host.data.nbytes for host in tensors.values()) > self.budget:
                break
            self._waiting.add(label.name)
            self._queue.put(_Write(label, index, tensors))
            return (index + 1) * BLOCK
        self._queue.put(_Touch([label.name for label in found]))
        return count * BLOCK

    def flush(self) -> None:
        """Wait until everything handed over is written."""
        self._queue.join()

    def close(self) -> None:
        """Write what waits, and end the writer."""
        self._queue.put(None)
        self._writer.join()

    def _present(self, tokens: np.ndarray) -> list[Label]:
        if not self.working:
            return []
        found = self._labels(tokens)
        for index, label in enumerate(found):
            # Not Path.exists, which raises where the folder may not be read any more.
            if not os.path.exists(self._path(label.name)):
                return found[:index]
        return found

    def _labels(self, tokens: np.ndarray) -> list[Label]:
        """Of all whole blocks; those of the array asked about last are remembered."""
        if tokens is not self._asked[0]:
            self._asked = tokens, block.labels(self._identity, tokens)
        return self._asked[1]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _load(self, label: Label) -> dict[str, Host] | None:
        try:
            content = np.fromfile(self._path(label.name), np.uint8)
        except OSError:
            return None
        return block.decode(label, content)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            self._path(name).unlink()

    # Called on the writer's thread.

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if not self.working:
                    pass
                elif isinstance(item, _Touch):
                    self._touch(item.names)
                else:
                    self._write(item)
                if self._written and self._queue.empty():
                    self._look(0)
            except Exception as error:  # else nobody would take the rest, and the end wait for it
                self._switch_off(error)
            finally:
                if isinstance(item, _Write):
                    self._waiting.discard(item.label.name)
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, item: _Write) -> None:
        pieces = block.encode(item.label, item.tensors)
        size = sum(piece.nbytes for piece in pieces)
        if self._total + size > self.budget or self._written >= LOOK_EVERY:
            self._look(size)
        aside = self.folder / f".{item.label.name}.{os.getpid()}.partial"
        try:
            with aside.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
            os.utime(aside, ns=_age(item.depth))
            os.replace(aside, self._path(item.label.name))
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        self._total += size
        self._written += 1

    def _touch(self, names: list[str]) -> None:
        """Note that these blocks, the first of a conversation, were used now."""
        for depth, name in enumerate(names):
            with suppress(FileNotFoundError):
                os.utime(self._path(name), ns=_age(depth))

    def _look(self, room: int) -> None:
        """Measure the folder, and make room for so many bytes where it is full; then a tenth more,
        so that this is not done for every block."""
        found, now = [], time.time()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process removed it
                    status = entry.stat(follow_symlinks=False)
                    if _NAME.fullmatch(entry.name):
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
                    elif entry.name.endswith(".partial") and status.st_mtime < now - ABANDONED:
                        os.unlink(entry.path)
        self._total, self._written = sum(size for _, size, _ in found), 0
        if self._total + room <= self.budget:
            return
        for _, size, path in sorted(found):
            if self._total + room <= self.budget * 9 // 10:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            self._total -= size

    def _switch_off(self, error: Exception) -> None:
        self.working = False
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        self._warn(f"{self.folder}: {reason}; it is off until the next start")


def _age(depth: int) -> tuple[int, int]:
    """Times of a file: now, but a second earlier for every block before it. Of one conversation
    the last blocks go first, without which the others still are of use."""
    used = time.time_ns() - depth * SECOND
    return used, used

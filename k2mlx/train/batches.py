"""The batches of a stage: text and conversation rows side by side, made ahead of the device by a
thread.

A batch is a function of (seed, stage, number), so a resumed run sees what it would have seen.
"""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..data.pack import ChatRows, ChatShard, TextRows, TextShard
from ..errors import ConfigError
from .recipe import Stage

NumpyBatch = dict[str, np.ndarray]
AHEAD = 4


class StageBatches:
    """Batch number n of a stage: tokens [B, L+1], segments [B, L+1] int32, loss [B, L] float32."""

    def __init__(self, stage: Stage, data: Path, seed: int):
        self._chat_rows = stage.chat_rows
        self._learn_all = stage.learn_all
        self._text_rows = stage.rows - stage.chat_rows
        seed = seed + zlib.crc32(stage.name.encode())
        self._text = self._chat = None
        if self._text_rows:
            text = [(TextShard.read(p), w) for p, w in _shards(data, stage.text)]
            self._text = TextRows(text, stage.length, seed)
        if self._chat_rows:
            chat = [(ChatShard.read(p), w) for p, w in _shards(data, stage.chat)]
            self._chat = ChatRows(chat, stage.length, seed)

    def __call__(self, number: int) -> NumpyBatch:
        parts = []
        if self._text is not None:
            parts.append(self._text.batch(number, self._text_rows))
        if self._chat is not None:
            parts.append(self._chat.batch(number, self._chat_rows))
            if self._learn_all:
                parts[-1]["loss"] = every_token(parts[-1]["segments"])
        return {
            key: np.concatenate([np.asarray(part[key]) for part in parts]).astype(kind)
            for key, kind in (("tokens", np.int32), ("segments", np.int32), ("loss", np.float32))
        }


def every_token(segments: np.ndarray) -> np.ndarray:
    """Loss weights [B, L] of all tokens of packed conversations, but first ones and padding."""
    return (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)


def _shards(data: Path, weights: dict[str, float]) -> list[tuple[Path, float]]:
    """FOLDER/NAME of the shards, with their weights. Raises ConfigError for one that is missing."""
    out = []
    for name, weight in weights.items():
        if not (data / f"{name}.json").is_file():
            there = sorted(p.stem for p in data.glob("*.json") if not p.stem.endswith(".heldout"))
            raise ConfigError(
                f"{data / name}.json: no such shard; {data} has {', '.join(there) or 'none'}. "
                "Build it with 'k2mlx data build' or take it out of the recipe."
            )
        if weight > 0:
            out.append((data / name, float(weight)))
    return out


class Ahead:
    """Iterates batches from number `start` on, made by a thread that is at most AHEAD in front."""

    def __init__(self, batches: StageBatches, start: int):
        self._queue: queue.Queue[NumpyBatch | BaseException] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches, start), daemon=True)
        self._thread.start()

    def _fill(self, batches: StageBatches, number: int) -> None:
        while not self._stop.is_set():
            try:
                item: NumpyBatch | BaseException = batches(number)
            except BaseException as error:
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            number += 1

    def __iter__(self) -> Iterator[tuple[dict[str, mx.array], float]]:
        """MLX arrays, and the sum of the loss weights."""
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield {key: mx.array(value) for key, value in item.items()}, float(item["loss"].sum())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

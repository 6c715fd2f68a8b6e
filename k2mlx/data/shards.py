"""Token shards as `k2mlx data build` writes them, read back and checked against their JSON.

Legend: N tokens in a shard.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from k2mlx.errors import ConfigError


def shard_facts(path: Path, kind: str) -> dict:
    """NAME.json of the shard FOLDER/NAME. ConfigError if it is missing or of another kind."""
    file = path.with_name(path.name + ".json")
    if not file.is_file():
        raise ConfigError(f"{file}: no such shard; build it with 'k2mlx data build'.")
    facts = json.loads(file.read_text())
    if facts["kind"] != kind:
        raise ConfigError(f"{file}: expected a shard of kind {kind}, got {facts['kind']}.")
    return facts


def _read(path: Path, suffix: str, dtype: str, size: int) -> np.ndarray:
    file = path.with_name(path.name + suffix)
    array = np.fromfile(file, dtype=dtype) if file.is_file() else np.empty(0, dtype)
    if len(array) != size:
        raise ConfigError(
            f"{file}: expected {size} values, got {len(array)}; build or copy the shard again."
        )
    return array


@dataclass(frozen=True)
class TextShard:
    """Running text: tokens_N, each document ended by [EOS]."""

    name: str
    tokens: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "TextShard":
        facts = shard_facts(path, "text")
        return cls(facts["name"], _read(path, ".bin", "<u2", facts["tokens"]))


@dataclass(frozen=True)
class ChatShard:
    """Conversations: tokens_N, loss_N (1: to be learned), offsets (starts, then the end)."""

    name: str
    tokens: np.ndarray
    loss: np.ndarray
    offsets: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "ChatShard":
        facts = shard_facts(path, "chat")
        size = facts["tokens"]
        return cls(
            facts["name"],
            _read(path, ".bin", "<u2", size),
            _read(path, ".loss.bin", "u1", size),
            _read(path, ".idx", "<u8", facts["conversations"] + 1).astype(np.int64),
        )

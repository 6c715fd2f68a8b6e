"""Bits per byte on held-out text: comparable between vocabularies, unlike the loss per token.

bpb = sum of -log p(token) / ln 2 / bytes of the text
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..data.pack import END
from ..model import Model
from .loss import cross_entropy


def held_out_shards(data: Path) -> list[Path]:
    """The JSON files of all held-out text shards in a folder that hold anything, by name."""
    shards = sorted(data.glob("*.heldout.json"))
    return [path for path in shards if json.loads(path.read_text(encoding="utf-8"))["tokens"]]


def evaluate(
    model: Model, shards: list[Path], length: int = 1024, rows: int = 32
) -> dict[str, dict[str, float]]:
    """Bits per byte of each shard (its JSON file's path), by its name without ".heldout".

    The shard is read in windows of `length` tokens, documents apart, as in training. Nothing stands
    before a document's first token, so it is charged as one of vocab_size equally likely ones.
    Values: bpb, loss (nats a token), tokens, bytes.
    """
    out = {}
    for path in shards:
        facts = json.loads(path.read_text(encoding="utf-8"))
        tokens = np.fromfile(path.with_suffix(".bin"), dtype="<u2")
        first_tokens = 1 + int((tokens[:-1] == END).sum())
        nats = first_tokens * math.log(model.config.vocab_size)
        for inputs, targets, segments, mask in _windows(tokens, length, rows):
            hidden = model.hidden(inputs, segments=segments)
            losses = cross_entropy(model.head(hidden).flatten(0, 1), targets.flatten())
            nats += float((losses * mask.flatten()).sum())
        out[facts["name"].removesuffix(".heldout")] = {
            "bpb": round(nats / math.log(2) / facts["bytes"], 5),
            "loss": round(nats / len(tokens), 5),
            "tokens": len(tokens),
            "bytes": facts["bytes"],
        }
    return out


def _windows(
    tokens: np.ndarray, length: int, rows: int
) -> Iterator[tuple[mx.array, mx.array, mx.array, mx.array]]:
    """Inputs, targets, segments and a mask [rows, length]; the last is filled up, and masked."""
    inputs, targets = tokens[:-1].astype(np.int32), tokens[1:].astype(np.int32)
    ends = inputs == END
    segments = (np.cumsum(ends) - ends).astype(np.int32)
    counts = (~ends).astype(np.float32)
    size = length * rows
    for start in range(0, len(inputs), size):
        part = [a[start : start + size] for a in (inputs, targets, segments, counts)]
        fill = -len(part[0]) % length  # whole rows; the last batch has fewer of them
        padded = [np.pad(a, (0, fill)).reshape(-1, length) for a in part]
        inputs_BL, targets_BL, segments_BL, mask_BL = (mx.array(a) for a in padded)
        yield inputs_BL, targets_BL, segments_BL, mask_BL

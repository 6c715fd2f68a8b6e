"""Bits per byte on held-out text: comparable between vocabularies, unlike the loss per token.

bpb = sum of -log p(token) / ln 2 / bytes of the text
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
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

    Values: bpb, loss (nats a token), tokens, bytes. `document_nats` says how they are read.
    """
    out = {}
    for path in shards:
        facts = json.loads(path.read_text(encoding="utf-8"))
        tokens = np.fromfile(path.with_suffix(".bin"), dtype="<u2")
        nats = float(document_nats(model, split_documents(tokens), length, rows).sum())
        out[facts["name"].removesuffix(".heldout")] = {
            "bpb": round(nats / math.log(2) / facts["bytes"], 5),
            "loss": round(nats / len(tokens), 5),
            "tokens": len(tokens),
            "bytes": facts["bytes"],
        }
    return out


def split_documents(tokens: np.ndarray) -> list[np.ndarray]:
    """The documents of a shard's tokens, each with its [EOS]."""
    return np.split(tokens, np.flatnonzero(tokens[:-1] == END) + 1)


def document_nats(
    model: Model, documents: Sequence[np.ndarray], length: int = 1024, rows: int = 32
) -> np.ndarray:
    """-log p of each document, in nats.

    They are read one after another in windows of `length` tokens, apart, as in training. Nothing
    stands before a document's first token, so it is charged as one of vocab_size equally likely
    ones.
    """
    nats = np.full(len(documents), math.log(model.config.vocab_size))
    for inputs, targets, segments, mask in _windows(documents, length, rows):
        hidden = model.hidden(mx.array(inputs), segments=mx.array(segments))
        losses = cross_entropy(model.head(hidden).flatten(0, 1), mx.array(targets).flatten())
        charged = np.array(losses.astype(mx.float32), np.float64) * mask.flatten()
        nats += np.bincount(segments.flatten(), charged, minlength=len(documents))
    return nats


def _windows(
    documents: Sequence[np.ndarray], length: int, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Inputs, targets, document numbers and a mask [rows, length]; the last is filled up, and
    masked. What the last token of a document is followed by is masked too."""
    tokens = np.concatenate(documents).astype(np.int32)
    numbers = np.repeat(np.arange(len(documents), dtype=np.int32), [len(d) for d in documents])
    inputs, targets, segments = tokens[:-1], tokens[1:], numbers[:-1]
    counts = (segments == numbers[1:]).astype(np.float32)
    size = length * rows
    for start in range(0, len(inputs), size):
        part = [a[start : start + size] for a in (inputs, targets, segments, counts)]
        fill = -len(part[0]) % length  # whole rows; the last batch has fewer of them
        inputs_BL, targets_BL, segments_BL, mask_BL = (
            np.pad(a, (0, fill)).reshape(-1, length) for a in part
        )
        yield inputs_BL, targets_BL, segments_BL, mask_BL

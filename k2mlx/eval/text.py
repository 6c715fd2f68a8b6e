"""`k2mlx eval text`: bits per byte of the held-out documents that `k2mlx data build` sets apart.

Each source by itself: a source of textbooks and one of recipes do not average to anything. The 95 %
interval is over documents (a bootstrap), because a model finds some documents much harder than
others; it is left out where there are fewer than MIN_DOCUMENTS of them, too few to say.

Legend: D documents.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from k2mlx.data.shards import TextShard
from k2mlx.errors import RequestError
from k2mlx.load import Loaded
from k2mlx.tokenizer import Tokenizer
from k2mlx.train.evaluate import document_nats, split_documents

HELD_OUT = ".heldout"
MIN_DOCUMENTS = 8
RESAMPLES = 2000
WINDOW = 1024
ROWS = 8  # windows at a time: their logits are 256 MB at 8,192 tokens of vocabulary


@dataclass(frozen=True)
class Source:
    """What was read of a source and how well it was predicted; bpb is None where nothing is held
    out. `of_tokens`: all its held-out tokens, of which `tokens` were read."""

    name: str
    documents: int
    tokens: int
    bytes: int
    of_tokens: int
    bpb: float | None = None
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {**vars(self), "interval": interval}


def held_out_sources(data: Path, model: Path) -> list[str]:
    """Names of the text sources in a shards folder, those with nothing held out among them.

    Raises: RequestError when there are none, or when they are in another vocabulary than the
    model's.
    """
    files = sorted(data.glob(f"*{HELD_OUT}.json"))
    if not files:
        raise RequestError(
            f"{data}: no NAME{HELD_OUT}.json in it, wanted a folder of shards; "
            "build one with 'k2mlx data build'"
        )
    vocabulary = model / "tokenizer.model"
    sha256 = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    for file in files:
        used = json.loads(file.read_text(encoding="utf-8"))["tokenizer_sha256"]
        if used != sha256:
            raise RequestError(
                f"{file}: tokenised with the vocabulary {used[:12]}, wanted {sha256[:12]} of "
                f"{vocabulary}; build the shards with 'k2mlx data build --model {model}'"
            )
    return [file.name.removesuffix(f"{HELD_OUT}.json") for file in files]


def evaluate(
    loaded: Loaded,
    data: Path,
    names: Sequence[str],
    max_tokens: int | None = None,
    on_source: Callable[[Source], None] | None = None,
) -> list[Source]:
    """Measure each source, on at most max_tokens of it (see `beginnings`)."""
    sources = []
    for name in names:
        tokens = TextShard.read(data / f"{name}{HELD_OUT}").tokens
        read = beginnings(split_documents(tokens), max_tokens) if len(tokens) else []
        source = Source(
            name,
            documents=len(read),
            tokens=sum(map(len, read)),
            bytes=int(sum(bytes_of(read, loaded.tokenizer))),
            of_tokens=len(tokens),
            **_predicted(loaded, read),
        )
        sources.append(source)
        if on_source:
            on_source(source)
    return sources


def _predicted(loaded: Loaded, documents: list[np.ndarray]) -> dict[str, Any]:
    if not documents:
        return {}
    bits_D = document_nats(loaded.model, documents, WINDOW, ROWS) / math.log(2)
    bytes_D = bytes_of(documents, loaded.tokenizer)
    bpb = round(float(bits_D.sum() / bytes_D.sum()), 4)
    return {"bpb": bpb, "interval": interval(bits_D, bytes_D)}


def beginnings(documents: list[np.ndarray], max_tokens: int | None) -> list[np.ndarray]:
    """All documents; where they are more than max_tokens, the beginning of each, cut at the same
    length, so that a few long ones do not take the place of the rest."""
    if max_tokens is None or sum(map(len, documents)) <= max_tokens:
        return documents
    left, cut = max_tokens, 0
    for place, size in enumerate(sorted(map(len, documents))):
        cut = left // (len(documents) - place)  # what each of those not shorter may have
        if size > cut:
            break
        left -= size
    return [document[:cut] for document in documents if cut]


def bytes_of(documents: Sequence[np.ndarray], tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes of each document [D]; markers count none."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)])
    return np.array([sizes[document].sum() for document in documents], np.int64)


def interval(bits_D: np.ndarray, bytes_D: np.ndarray) -> tuple[float, float] | None:
    """95 % bootstrap interval of bits per byte over documents; None for too few of them."""
    count = len(bits_D)
    if count < MIN_DOCUMENTS:
        return None
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(bits_D[drawn].sum(1) / bytes_D[drawn].sum(1), (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)


def table(sources: Sequence[Source]) -> str:
    """For a terminal: a line for each source."""
    return "\n".join(_rows(sources))


def _rows(sources: Sequence[Source]) -> Iterator[str]:
    yield f"{'source':20}{'bits/byte':>10}{'95 % interval':>17}{'documents':>11}{'bytes':>11}"
    for one in sources:
        if one.bpb is None:
            yield f"{one.name:20}{'-':>10}   no document is held out"
            continue
        between = "-" if one.interval is None else "{:.3f} - {:.3f}".format(*one.interval)
        row = f"{one.name:20}{one.bpb:>10.3f}{between:>17}{one.documents:>11}{one.bytes:>11,}"
        if one.tokens < one.of_tokens:
            row += f"   {one.tokens:,} of {one.of_tokens:,} tokens"
        yield row

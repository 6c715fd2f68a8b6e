"""`k2mlx eval overlap`: how much of what we measure on stands in what was trained on.

Words are runs of letters and digits, whatever their case. Two texts overlap where SHINGLE words in
a row are the same. A text of fewer words overlaps when all of it stands in a row within a turn or a
document. Turns and documents are apart: no shingle reaches from one into the next.

Legend: N words, T tokens.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from k2mlx.data.shards import ChatShard, TextShard
from k2mlx.errors import RequestError
from k2mlx.eval.questions import Case
from k2mlx.eval.text import HELD_OUT
from k2mlx.tokenizer import Tokenizer

SHINGLE = 12
APART = "\0"  # stands where a marker was, or an end; no word has it
BLOCK = 4_000_000  # tokens read at a time

_WORD = re.compile(rf"\w+|{APART}")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Texts:
    """Texts of one kind that are looked for, and what was found of them."""

    name: str
    hashes: list[np.ndarray]  # of each text: its shingles', or the one of all of it
    sizes: list[int]  # words in each
    found: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.found = [np.zeros(len(part), bool) for part in self.hashes]

    def to_json(self) -> dict[str, Any]:
        """texts, those that overlap at all (by number), shingles and the share found."""
        shingles = sum(map(len, self.hashes))
        found = int(sum(part.sum() for part in self.found))
        return {
            "texts": len(self.sizes),
            "short_texts": sum(size < SHINGLE for size in self.sizes),
            "overlapping": [number for number, part in enumerate(self.found) if part.any()],
            "shingles": shingles,
            "share": round(found / shingles, 5) if shingles else None,
        }


class Words:
    """A number for each word, so that texts are compared as arrays."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """Numbers of the words [N], scattered over 64 bits."""
        numbers = self._numbers
        words = _WORD.findall(text.casefold())
        ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.uint64)
        with np.errstate(over="ignore"):
            mixed = (ids + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
            return mixed ^ (mixed >> np.uint64(29))


def row_hashes(words_N: np.ndarray, size: int) -> np.ndarray:
    """A hash of every `size` words in a row [N - size + 1]."""
    count = max(0, len(words_N) - size + 1)
    hashes = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(size):
            hashes = (hashes + words_N[place : place + count]) * _FACTOR
            hashes ^= hashes >> np.uint64(32)
    return hashes


def texts_to_find(name: str, texts: Iterable[str], words: Words) -> Texts:
    """What to look for of these texts; those without a word are passed over."""
    wanted = [found for text in texts if len(found := words(text))]
    hashes = [row_hashes(found, min(SHINGLE, len(found))) for found in wanted]
    return Texts(name, hashes, [len(found) for found in wanted])


def question_texts(cases: Iterable[Case]) -> list[str]:
    """Everything that users say in the tool questions, each text once."""
    said = (
        message["content"]
        for case in cases
        for message in case["messages"]
        if message["role"] == "user"
    )
    return list(dict.fromkeys(said))


def find(wanted: Sequence[Texts], blocks: Iterable[str], words: Words) -> None:
    """Mark in `wanted` what stands in the blocks."""
    sizes = sorted({min(size, SHINGLE) for texts in wanted for size in texts.sizes})
    needles = {size: _hashes_of(wanted, size) for size in sizes}
    seen: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    for block in blocks:
        words_N = words(block)
        for size in sizes:
            hashes = row_hashes(words_N, size)
            seen[size].append(np.unique(hashes[_among(needles[size], hashes)]))
    for texts in wanted:
        for number, size in enumerate(texts.sizes):
            parts = seen[min(size, SHINGLE)]
            if parts:
                texts.found[number] |= np.isin(texts.hashes[number], np.concatenate(parts))


def _among(sorted_N: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """np.isin for a few needles in much hay, several times as fast."""
    places = np.searchsorted(sorted_N, hashes)
    return sorted_N[np.minimum(places, len(sorted_N) - 1)] == hashes


def _hashes_of(wanted: Sequence[Texts], size: int) -> np.ndarray:
    parts = [
        part
        for texts in wanted
        for part, words in zip(texts.hashes, texts.sizes, strict=True)
        if min(words, SHINGLE) == size
    ]
    return np.unique(np.concatenate(parts))


def training_shards(folders: Sequence[Path]) -> list[Path]:
    """FOLDER/NAME of every shard that is not held out. RequestError for a folder without any."""
    shards = []
    for folder in folders:
        files = [path for path in sorted(folder.glob("*.json")) if _is_shard(path)]
        if not files:
            raise RequestError(
                f"{folder}: no shards in it, wanted a folder that 'k2mlx data build' wrote"
            )
        shards += [path.with_suffix("") for path in files if HELD_OUT not in path.name]
    return shards


def held_out_texts(folders: Sequence[Path], tokenizer: Tokenizer, words: Words) -> Iterator[Texts]:
    """What to look for of the held-out documents, a source at a time."""
    for shard in sorted(path for folder in folders for path in folder.glob(f"*{HELD_OUT}.json")):
        tokens = TextShard.read(shard.with_suffix("")).tokens
        texts = "".join(read_tokens(tokens, tokenizer)).split(APART)
        yield texts_to_find(shard.name.removesuffix(f"{HELD_OUT}.json"), texts, words)


def table(wanted: Sequence[Texts]) -> str:
    """For a terminal: a line for each kind of texts."""
    lines = [f"{'':20}{'texts':>8}{'overlapping':>13}{'shingles':>11}{'of them found':>15}"]
    for texts in wanted:
        row = texts.to_json()
        share = "-" if row["share"] is None else f"{row['share']:.2%}"
        overlapping = len(row["overlapping"])
        lines.append(
            f"{texts.name:20}{row['texts']:>8}{overlapping:>13}{row['shingles']:>11,}{share:>15}"
        )
    return "\n".join(lines)


def _is_shard(path: Path) -> bool:
    facts = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(facts, dict) and facts.get("kind") in ("text", "chat")


def read_shard(shard: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of a shard, some million tokens at a time, APART where a marker stands."""
    facts = json.loads(shard.with_name(shard.name + ".json").read_text(encoding="utf-8"))
    kind = TextShard if facts["kind"] == "text" else ChatShard
    return read_tokens(kind.read(shard).tokens, tokenizer)


def read_tokens(tokens_T: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """Blocks that end where a turn or a document does, as far as there are any such places."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    for token in tokenizer.special.values():
        pieces[token] = APART.encode()
    marks = np.flatnonzero(np.isin(tokens_T, list(tokenizer.special.values()))) + 1
    start = 0
    while start < len(tokens_T):
        ends = marks[np.searchsorted(marks, start + BLOCK) :]
        end = int(ends[0]) if len(ends) else len(tokens_T)
        text = b"".join([pieces[token] for token in tokens_T[start:end].tolist()])
        yield text.decode("utf-8", "replace")
        start = end

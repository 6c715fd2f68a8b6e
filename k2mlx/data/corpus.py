"""Reads text sources, holds documents out by their id, and writes token shards.

A text source is a `.jsonl` or `.jsonl.xz` file of `{"id": str, "text": str, ...}`. A shard is
NAME.bin (uint16 token ids, each document followed by [EOS]) and NAME.json, which says what it
holds, under which licence and from where.
"""

import hashlib
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from k2mlx.errors import ConfigError
from k2mlx.tokenizer import Tokenizer

HELD_OUT_ONE_IN = 100
END = "[EOS]"


class Document(NamedTuple):
    id: str
    text: str


@dataclass(frozen=True)
class TextSource:
    """One file of documents and what is to be known about it.

    clean: "none", or "unwrap": join lines that were broken for a picture-book page.
    require: a regular expression that a document must contain to be used at all.
    fraction: the share of documents to use at all; max_bytes: where to stop.
    shard_fraction: the share of the training documents that goes into the shard, while the
    vocabulary is learned from all of them.
    Shares are taken by a hash of the id, so the choice does not depend on the order of the file.
    """

    name: str
    path: str
    licence: str
    source: str
    clean: str = "none"
    require: str | None = None
    fraction: float = 1.0
    max_bytes: int | None = None
    shard_fraction: float = 1.0


def held_out(document_id: str) -> bool:
    """True for the one document in a hundred that no version of a model may train on.

    The rule is `int(sha256(id).hexdigest(), 16) % 100 == 0` on the UTF-8 bytes of the id.
    """
    return _hash(document_id) % HELD_OUT_ONE_IN == 0


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _within(text: str, share: float) -> bool:
    # Other texts than the bare id, so that a subset says nothing about what is held out.
    return _hash(text) % 10_000 < share * 10_000


def open_lines(path: Path) -> IO[str]:
    """Opens a text file, unpacking .xz on the way. Raises ConfigError when there is none."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such source file; check the path in the data recipe or --source."
        )
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_documents(path: Path) -> Iterator[Document]:
    """Yields the documents of a JSONL file; ConfigError names the number of a bad line."""
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                document = Document(row["id"], row["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f'{path}:{number}: expected an object with "id" and "text", '
                    f"got {line[:60]!r} ({error})."
                ) from error
            yield document


def unwrap(text: str) -> str:
    """Joins the lines of each paragraph: a picture book breaks them where its page ends."""
    paragraphs = re.split(r"\n{2,}", text)
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs)


def usable(source: TextSource, folder: Path) -> Iterator[Document]:
    """Yields a source's cleaned documents that its filters let through, held-out ones included."""
    used = 0
    for document in read_documents(folder / source.path):
        if source.require and not re.search(source.require, document.text):
            continue
        if not _within("subset:" + document.id, source.fraction):
            continue
        text = unwrap(document.text) if source.clean == "unwrap" else document.text
        text = text.strip()
        used += len(text.encode())
        if source.max_bytes is not None and used > source.max_bytes:
            return
        if text:
            yield Document(document.id, text)


class Split:
    """Decides for each document of a set of sources: training, held out or duplicate.

    A training document whose text equals a held-out one is dropped, whichever comes first: so all
    held-out texts are collected before the first decision.
    """

    def __init__(self, sources: Iterable[TextSource], folder: Path):
        self._held = {
            _digest(document.text)
            for source in sources
            for document in usable(source, folder)
            if held_out(document.id)
        }
        self._seen: set[bytes] = set()

    def __call__(self, document: Document) -> str | None:
        """Returns "train", "heldout", or None for a text that was seen before."""
        digest = _digest(document.text)
        if digest in self._seen or (digest in self._held and not held_out(document.id)):
            return None
        self._seen.add(digest)
        return "heldout" if held_out(document.id) else "train"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class ShardWriter:
    """Writes one text shard document by document; `close` writes its JSON."""

    def __init__(self, folder: Path, source: TextSource, part: str, tokenizer: Tokenizer):
        self.name = source.name if part == "train" else f"{source.name}.{part}"
        self._source, self._part, self._tokenizer = source, part, tokenizer
        self._json = folder / f"{self.name}.json"
        self._file = (folder / f"{self.name}.bin").open("wb")
        self._sha = hashlib.sha256()
        self.tokens = self.documents = self.bytes = 0

    def add(self, text: str) -> None:
        ids = [*encode_lines(text, self._tokenizer), self._tokenizer.special[END]]
        packed = np.asarray(ids, dtype="<u2").tobytes()
        self._file.write(packed)
        self._sha.update(packed)
        self.tokens += len(ids)
        self.documents += 1
        self.bytes += len(text.encode())

    def close(self, tokenizer_sha256: str) -> dict:
        self._file.close()
        facts = {
            "name": self.name,
            "kind": "text",
            "part": self._part,
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "sha256": self._sha.hexdigest(),
            "tokenizer_sha256": tokenizer_sha256,
            "licence": self._source.licence,
            "source": self._source.source,
        }
        self._json.write_text(json.dumps(facts, indent=1) + "\n")
        return facts


def encode_lines(text: str, tokenizer: Tokenizer) -> list[int]:
    """Encodes line by line: a whole novel at once is slow, and no token reaches over a newline."""
    ids: list[int] = []
    for line in text.splitlines(keepends=True):
        ids += tokenizer.encode(line)
    return ids


def write_text_shards(
    source: TextSource,
    folder: Path,
    out: Path,
    split: Split,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
) -> list[dict]:
    """Writes NAME and NAME.heldout for one source; returns what their JSON files say."""
    writers = {part: ShardWriter(out, source, part, tokenizer) for part in ("train", "heldout")}
    for document in usable(source, folder):
        part = split(document)
        if part == "heldout" or (
            part == "train" and _within("shard:" + document.id, source.shard_fraction)
        ):
            writers[part].add(document.text)
    return [writer.close(tokenizer_sha256) for writer in writers.values()]

"""Text sources to shards: what is held out, what is dropped, what is written."""

import hashlib
import json
import lzma

import numpy as np
import pytest

from k2mlx.data.corpus import (
    Document,
    Split,
    TextSource,
    encode_lines,
    held_out,
    read_documents,
    unwrap,
    usable,
    write_text_shards,
)
from k2mlx.errors import ConfigError
from k2mlx.tokenizer import ByteTokenizer

HELD = next(f"d{n}" for n in range(1000) if held_out(f"d{n}"))


def source(**changes):
    facts = {"name": "s", "path": "s.jsonl", "licence": "CC0", "source": "a test"}
    return TextSource(**(facts | changes))


def write(folder, documents, name="s.jsonl"):
    lines = "".join(json.dumps({"id": i, "text": t, "src": "x"}) + "\n" for i, t in documents)
    opener = lzma.open if name.endswith(".xz") else open
    with opener(folder / name, "wt") as file:
        file.write(lines)


def test_the_hold_out_rule_is_sha256_mod_100():
    for document_id in ("en/0001_a-very-tall-man.md", "", "ü", HELD):
        digest = hashlib.sha256(document_id.encode()).hexdigest()
        assert held_out(document_id) == (int(digest, 16) % 100 == 0)
    share = sum(held_out(f"doc {n}") for n in range(20_000)) / 20_000
    assert 0.007 < share < 0.013


def test_documents_are_read_packed_or_not(tmp_path):
    documents = [("a", "One.\nTwo."), ("b", "“Drei”")]
    write(tmp_path, documents)
    write(tmp_path, documents, "s.jsonl.xz")
    expected = [Document(*document) for document in documents]
    assert list(read_documents(tmp_path / "s.jsonl")) == expected
    assert list(read_documents(tmp_path / "s.jsonl.xz")) == expected


@pytest.mark.parametrize("line", ["{", '{"id": "a"}', "[]", "3"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "s.jsonl").write_text('{"id": "a", "text": "b"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"s\.jsonl:2: expected an object"):
        list(read_documents(tmp_path / "s.jsonl"))


def test_unwrap_joins_lines_within_paragraphs():
    assert unwrap("Goat and Cow\nwere great \nfriends.\n\n\nOne day") == (
        "Goat and Cow were great friends.\n\nOne day"
    )


def test_filters(tmp_path):
    write(tmp_path, [("a", "CC0 one"), ("b", "two"), ("c", "CC0 three"), ("d", "  ")])
    assert [d.id for d in usable(source(require="CC0"), tmp_path)] == ["a", "c"]
    assert [d.id for d in usable(source(), tmp_path)] == ["a", "b", "c"]
    assert [d.id for d in usable(source(max_bytes=10), tmp_path)] == ["a", "b"]


def test_a_fraction_does_not_depend_on_order_and_grows(tmp_path):
    documents = [(f"x{n}", f"text {n}") for n in range(300)]
    write(tmp_path, documents)
    small = {d.id for d in usable(source(fraction=0.3), tmp_path)}
    large = {d.id for d in usable(source(fraction=0.6), tmp_path)}
    write(tmp_path, documents[::-1])
    assert {d.id for d in usable(source(fraction=0.3), tmp_path)} == small
    assert small < large
    assert 60 < len(small) < 120


def test_split_drops_duplicates_and_copies_of_held_out_texts(tmp_path):
    write(tmp_path, [("a", "same"), ("b", "same"), ("c", "secret"), (HELD, "secret")])
    split = Split([source()], tmp_path)
    parts = {d.id: split(d) for d in usable(source(), tmp_path)}
    assert parts == {"a": "train", "b": None, "c": None, HELD: "heldout"}


def test_shards_hold_the_text_and_say_what_it_is(tmp_path):
    tokenizer = ByteTokenizer()
    write(tmp_path, [("a", "One.\nTwo."), (HELD, "Held."), ("b", "Three.")])
    train, held = write_text_shards(
        source(), tmp_path, tmp_path, Split([source()], tmp_path), tokenizer, "abc"
    )
    tokens = np.fromfile(tmp_path / "s.bin", "<u2").tolist()
    assert tokenizer.decode(tokens) == "One.\nTwo.[EOS]Three.[EOS]"
    assert train == json.loads((tmp_path / "s.json").read_text())
    assert train["tokens"] == len(tokens) == 17
    assert (train["documents"], train["bytes"], train["kind"]) == (2, 15, "text")
    assert train["sha256"] == hashlib.sha256((tmp_path / "s.bin").read_bytes()).hexdigest()
    assert train["licence"] == "CC0" and train["tokenizer_sha256"] == "abc"
    assert held["name"] == "s.heldout" and held["documents"] == 1
    tokens = np.fromfile(tmp_path / "s.heldout.bin", "<u2").tolist()
    assert tokenizer.decode(tokens) == "Held.[EOS]"


def test_a_shard_fraction_spares_held_out_documents(tmp_path):
    write(tmp_path, [(f"x{n}", f"text {n}") for n in range(200)] + [(HELD, "Held.")])
    few = source(shard_fraction=0.2)
    train, held = write_text_shards(
        few, tmp_path, tmp_path, Split([few], tmp_path), ByteTokenizer(), ""
    )
    assert 20 < train["documents"] < 70
    assert held["documents"] == 1 + sum(held_out(f"x{n}") for n in range(200))


def test_encoding_by_lines_loses_nothing():
    text = "a\r\nb\n\n c\u2028d\x0be\n"
    assert ByteTokenizer().decode(encode_lines(text, ByteTokenizer())) == text

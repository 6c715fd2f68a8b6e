"""`k2mlx eval overlap`: what is found in training shards, and what is not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.cli import main
from k2mlx.errors import RequestError
from k2mlx.eval import overlap
from k2mlx.eval.overlap import (
    APART,
    SHINGLE,
    Words,
    find,
    question_texts,
    read_tokens,
    row_hashes,
    table,
    texts_to_find,
    training_shards,
)
from k2mlx.eval.questions import read_questions
from tests.folders import write_folder
from tests.vocabulary import tiny_tokenizer

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def found(text, *blocks):
    words = Words()
    texts = texts_to_find("t", [text], words)
    find([texts], blocks, words)
    return texts.to_json()


@pytest.mark.parametrize(
    ("text", "block", "shingles"),
    [
        (LONG, f"So: {LONG.title()}!", 2),
        (LONG, "zero " + LONG.removesuffix(" thirteen"), 1),
        (LONG, LONG.replace("seven", "7"), 0),
        (LONG, LONG.replace(" seven", APART + "seven"), 0),
        ("What is 12 x 7?", "Tell me, what is 12 x 7, please", 1),
        ("What is 12 x 7?", "what is 12 x 8", 0),
        ("Hi", "oh hi there", 1),
        ("Hi", "this", 0),
        ("häppy", "HÄPPY", 1),
    ],
)
def test_what_overlaps(text, block, shingles):
    row = found(text, "nothing", block, "")
    assert round(row["share"] * row["shingles"]) == shingles
    assert row["overlapping"] == ([0] if shingles else [])
    assert row["short_texts"] == (len(text.split()) < SHINGLE)


def test_findings_add_up_over_calls():
    words = Words()
    texts = texts_to_find("t", ["a b c", "d e", "f", "..."], words)
    for block in ("x d e", "nothing", "a b c d"):
        find([texts], [block], words)
    row = texts.to_json()
    assert (row["texts"], row["overlapping"]) == (3, [0, 1])


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 12))
def test_rows_have_the_same_hash_when_they_are_the_same(numbers, size):
    words = Words()(" ".join("abcd"[number] for number in numbers))
    hashes = row_hashes(words, size).tolist()
    rows = [tuple(numbers[at : at + size]) for at in range(len(numbers) - size + 1)]
    assert len(hashes) == len(rows)
    assert len(set(zip(hashes, rows, strict=True))) == len(set(rows)) == len(set(hashes))


def test_tokens_become_text_with_turns_apart(monkeypatch):
    tokenizer = tiny_tokenizer()
    turns = ["The cat sat", "on häppy mats", "and the dog ran away."]
    tokens = np.concatenate([[*tokenizer.encode(turn), 4] for turn in turns])
    for block in (1, 7, 20, 1000):
        monkeypatch.setattr(overlap, "BLOCK", block)
        blocks = list(read_tokens(tokens, tokenizer))
        assert "".join(blocks) == "".join(turn + APART for turn in turns)
        assert all(part.endswith(APART) for part in blocks)
    assert "".join(read_tokens(tokens[:-1], tokenizer)).endswith("away.")
    assert list(read_tokens(tokens[:0], tokenizer)) == []


def test_every_user_text_of_the_questions_is_looked_for():
    texts = question_texts(read_questions())
    assert len(texts) == len(set(texts)) >= 426
    assert all(case["messages"][-1]["content"] in texts for case in read_questions())


@pytest.fixture
def folder(tmp_path):
    """A model, a shard of chats that holds a tool question, and a text shard with its held-out
    part, half of which is in the training part."""
    model = write_folder(tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    tokenizer = tiny_tokenizer()
    question = next(c for c in read_questions() if c["gold"])["messages"][-1]["content"]
    held = [LONG, LONG.replace("one", "once upon a time there was nobody who said")]
    shards = {"chat": [question], "text": [LONG, "The cat sat."], "text.heldout": held}
    for name, texts in shards.items():
        parts = [[*tokenizer.encode(text), 3] for text in texts]
        tokens = np.concatenate(parts).astype("<u2")
        tokens.tofile(data / f"{name}.bin")
        facts = {"name": name, "kind": name.split(".")[0], "tokens": len(tokens)}
        facts["conversations"] = len(texts)
        (data / f"{name}.json").write_text(json.dumps(facts))
        if name == "chat":
            np.ones(len(tokens), "u1").tofile(data / "chat.loss.bin")
            np.array([0, len(tokens)], "<u8").tofile(data / "chat.idx")
    (data / "SHARDS.json").write_text("[]")
    return model, data


def test_the_command(folder, capsys):
    model, data = folder
    args = ["eval", "overlap", "--model", str(model), "--data", str(data)]
    assert main([*args, "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert set(rows) == {"tool questions", "text"}
    assert rows["tool questions"]["overlapping"] == [0]
    assert rows["text"]["overlapping"] == [0, 1]
    assert 0 < rows["text"]["share"] < 1
    assert "2/2 shards" in err
    assert main(args) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("tool questions")


def test_held_out_shards_are_not_training(folder):
    assert [path.name for path in training_shards([folder[1]])] == ["chat", "text"]


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(RequestError, match="no shards in it, wanted a folder"):
        training_shards([tmp_path])


def test_a_table_of_nothing():
    assert table([texts_to_find("none", [], Words())]).splitlines()[1].split() == [
        *"none 0 0 0 -".split()
    ]

"""`k2mlx eval text`: what is read of a shard, what it counts, and its interval."""

import hashlib
import json

import numpy as np
import pytest

from k2mlx.data.corpus import Split, TextSource, write_text_shards
from k2mlx.errors import ConfigError, RequestError
from k2mlx.eval.text import (
    MIN_DOCUMENTS,
    Source,
    beginnings,
    bytes_of,
    evaluate,
    held_out_sources,
    interval,
    table,
)
from k2mlx.load import load
from k2mlx.train.evaluate import evaluate as whole
from tests.folders import write_folder
from tests.vocabulary import tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    """Two sources as `k2mlx data build` writes them; nothing of `none` is held out."""
    folder = tmp_path_factory.mktemp("data")
    sha256 = hashlib.sha256((model / "tokenizer.model").read_bytes()).hexdigest()
    for name, count in (("cats", 2000), ("none", 3)):
        rows = [
            {"id": f"{name} {n}", "text": f"Cat {n} sat on häppy mats.\n" * (n % 7 + 1)}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = TextSource(name, f"{name}.jsonl", "MIT", "made up")
        write_text_shards(source, folder, folder, Split([source], folder), tiny_tokenizer(), sha256)
    return folder


def test_all_of_it_is_what_training_measures(model, data):
    loaded = load(model)
    names = held_out_sources(data, model)
    assert names == ["cats", "none"]
    seen = []
    cats, none = evaluate(loaded, data, names, on_source=seen.append)
    assert seen == [cats, none]
    facts = json.loads((data / "cats.heldout.json").read_text())
    assert (cats.documents, cats.tokens, cats.bytes) == tuple(
        facts[key] for key in ("documents", "tokens", "bytes")
    )
    expected = whole(loaded.model, [data / "cats.heldout.json"])["cats"]["bpb"]
    assert cats.bpb == pytest.approx(expected, abs=1e-3)
    assert cats.interval is not None
    assert cats.interval[0] < cats.bpb < cats.interval[1]
    assert (none.documents, none.bpb, none.interval) == (0, None, None)


def test_a_part_of_it(model, data):
    (cats,) = evaluate(load(model), data, ["cats"], max_tokens=100)
    assert cats.tokens <= 100 < cats.of_tokens
    assert cats.bpb
    assert json.loads(json.dumps(cats.to_json()))["tokens"] == cats.tokens


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([5, 9, 2], None, [5, 9, 2]),
        ([5, 9, 2], 16, [5, 9, 2]),
        ([5, 9, 2], 15, [5, 8, 2]),
        ([5, 9, 2], 9, [3, 3, 2]),
        ([100, 100], 41, [20, 20]),
        ([4, 4, 4], 2, []),
    ],
)
def test_beginnings(sizes, limit, expected):
    documents = [np.arange(size) for size in sizes]
    kept = beginnings(documents, limit)
    assert [len(part) for part in kept] == expected
    assert all((part == np.arange(len(part))).all() for part in kept)


def test_bytes_are_those_of_the_text():
    tokenizer = tiny_tokenizer()
    texts = ["The cat sat", "häppy \U0001f600\n", ""]
    documents = [np.array([*tokenizer.encode(text), 3]) for text in texts]
    assert bytes_of(documents, tokenizer).tolist() == [len(text.encode()) for text in texts]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    r = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        sizes = r.integers(100, 1000, 40)
        found = interval(sizes * r.normal(1.5, 0.3, 40), sizes)
        assert found is not None
        hits += found[0] < 1.5 < found[1]
    assert 180 <= hits <= 199


def test_no_interval_of_a_few_documents():
    few = np.ones(MIN_DOCUMENTS - 1)
    assert interval(few, few) is None
    assert interval(np.ones(MIN_DOCUMENTS), np.ones(MIN_DOCUMENTS)) == (1, 1)


def test_table():
    some = Source("novels", 4, 1000, 3260, 5000, 2.42)
    all_ = Source("tales", 9, 1000, 3260, 1000, 1.5, (1.4, 1.625))
    header, first, second, third = table([some, all_, Source("books", 0, 0, 0, 0)]).splitlines()
    assert header.split()[0] == "source"
    assert first.split() == ["novels", "2.420", "-", *"4 3,260 1,000 of 5,000 tokens".split()]
    assert second.split() == ["tales", "1.500", "1.400", "-", "1.625", "9", "3,260"]
    assert third.split() == "books - no document is held out".split()


def test_a_folder_without_shards(model, tmp_path):
    with pytest.raises(RequestError, match="wanted a folder of shards"):
        held_out_sources(tmp_path, model)


def test_shards_of_another_vocabulary(data, model, tmp_path):
    other = write_folder(tmp_path / "other")
    (other / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(RequestError, match="tokenised with the vocabulary"):
        held_out_sources(data, other)


def test_a_shard_that_was_cut_off(model, data, tmp_path):
    for suffix in (".json", ".bin"):
        content = (data / f"cats.heldout{suffix}").read_bytes()
        (tmp_path / f"cats.heldout{suffix}").write_bytes(
            content[: 100 if suffix == ".bin" else None]
        )
    with pytest.raises(ConfigError, match=r"cats\.heldout\.bin: expected"):
        evaluate(load(model), tmp_path, ["cats"])

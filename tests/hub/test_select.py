"""Which files a model and a rank need: properties over random indexes, against a plain oracle."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import HubError, RequestError
from k2mlx.hub.select import is_plain, layers_of, rank_shards, read_index, shards, small_files
from k2mlx.progress import Progress, size_words

PREFIXES = ["", "language_model.", "model.language_model."]
VISION = ["vision_tower.blocks.0.wq", "mm_projector.proj.0.weight", "vision_tower.layers.1.w"]


@st.composite
def models(draw):
    """(weight_map, split): tensors of every layer spread over shards, in any order."""
    split = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    prefix = draw(st.sampled_from(PREFIXES))
    inner = "" if prefix.startswith("model.") else "model."
    names = [
        f"{prefix}{inner}layers.{i}.{p}" for i in range(sum(split)) for p in ("self_attn", "mlp")
    ]
    names += [f"{prefix}{inner}embed_tokens.weight", f"{prefix}{inner}norm.weight"]
    names += [
        f"{prefix.removeprefix('model.')}lm_head.weight",
        *draw(st.sets(st.sampled_from(VISION))),
    ]
    count = draw(st.integers(1, len(names)))
    places = draw(st.lists(st.integers(0, count), min_size=len(names), max_size=len(names)))
    weight_map = {n: f"model-{p}.safetensors" for n, p in zip(names, places, strict=True)}
    return weight_map, split


def holds(name, split, rank):
    """Whether a rank needs a tensor, said another way than the code does."""
    if any(name.startswith(v.split(".")[0]) for v in VISION):
        return False
    if "layers." in name:
        layer = int(re.findall(r"layers\.(\d+)", name)[0])
        owner = next(r for r in range(len(split)) if layer < sum(split[: r + 1]))
        return owner == rank
    return rank == (0 if "embed" in name else len(split) - 1)


@given(models())
def test_a_rank_gets_the_shards_of_its_tensors_and_no_others(model):
    weight_map, split = model
    for rank in range(len(split)):
        wanted = {file for name, file in weight_map.items() if holds(name, split, rank)}
        assert rank_shards(weight_map, split, rank) == sorted(wanted)


@given(models())
def test_ranks_together_need_every_shard_but_those_of_vision_alone(model):
    weight_map, split = model
    union = {file for rank in range(len(split)) for file in rank_shards(weight_map, split, rank)}
    text = {f for n, f in weight_map.items() if not n.startswith(("vision", "mm_"))}
    assert union == text


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_layers_follow_each_other_and_leave_none_out(split):
    layers = [layer for rank in range(len(split)) for layer in layers_of(split, rank)]
    assert layers == list(range(sum(split)))


def test_a_tied_head_needs_the_embedding_and_an_unknown_tensor_is_everybodys():
    index = {
        "model.embed_tokens.weight": "a",
        "model.layers.0.x": "b",
        "model.layers.1.x": "c",
        "model.norm.weight": "c",
        "something.new": "d",
    }
    assert rank_shards(index, [1, 1], 0) == ["a", "b", "d"]
    assert rank_shards(index, [1, 1], 1) == ["a", "c", "d"]


@given(models(), st.integers(1, 3))
def test_a_split_of_another_model_is_refused(model, more):
    weight_map, split = model
    with pytest.raises(RequestError, match=r"layers, the model has"):
        rank_shards(weight_map, [*split, more], 0)


@given(st.text(max_size=12))
def test_a_plain_name_stays_in_its_folder(name):
    if is_plain(name):
        assert not set(name) & set("/\\:\0\n")
        assert name not in (".", "..")
        assert name == name.strip()


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_what_is_no_index_is_said(data):
    with pytest.raises(HubError, match="wanted"):
        read_index(data)


def test_no_pickle_no_python_no_other_framework():
    names = {
        "config.json",
        "modeling.py",
        "pytorch_model.bin",
        "x.gguf",
        "tf_model.h5",
        "README.md",
    }
    assert small_files(names) == ["config.json"]
    with pytest.raises(HubError, match=r"no model\*.safetensors"):
        shards(names, None)
    assert shards({"model.safetensors", "other.safetensors"}, None) == ["model.safetensors"]


@given(st.integers(0, 10**15))
def test_sizes_in_words_are_right_to_the_digit_shown(size):
    number, unit = size_words(size).split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    digits = len(number.partition(".")[2])
    assert abs(float(number) * scale - size) <= 0.5001 * scale / 10**digits
    assert unit == "TB" or float(number) <= 1000


def test_progress_tells_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(total=10**10, here=4 * 10**9, files=62)
    assert progress.line() == "4.0 GB of 10.0 GB, 0 B/s, waiting, 0 of 62 files"
    for _ in range(100):  # a minute and a half at 10 MB/s, after which the start is forgotten
        now[0] += 1
        progress.add(10**7)
        line = progress.line()
    assert line == "5.0 GB of 10.0 GB, 10.0 MB/s, 0:08:20 left, 0 of 62 files"
    progress.lose(10**9)
    assert progress.line().startswith("4.0 GB of")
    progress.add(6 * 10**9)
    progress.finish_file()
    assert "checking, 1 of 62" in progress.line()

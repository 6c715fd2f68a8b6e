"""Packing properties: nothing lost, nothing mixed, nothing learned that should not be."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.data.pack import (
    END,
    PAD,
    ChatRows,
    ChatShard,
    Mixture,
    TextRows,
    TextShard,
    best_fit,
    shares,
)
from k2mlx.errors import ConfigError

LENGTH = 31


def chat_shard(sizes, name="c", seed=0):
    """Conversations of these sizes; conversation n holds only the token 100 + n."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    tokens = np.repeat(100 + np.arange(len(sizes)), sizes).astype("<u2")
    loss = np.random.default_rng(seed).integers(0, 2, offsets[-1]).astype("u1")
    return ChatShard(name, tokens, loss, offsets)


def text_shard(name, token, documents=9, size=20):
    return TextShard(name, np.array(([token] * size + [END]) * documents, "<u2"))


sizes_strategy = st.lists(st.integers(1, LENGTH + 8), min_size=1, max_size=60).filter(
    lambda sizes: min(sizes) <= LENGTH + 1
)


@given(st.lists(st.integers(1, 50), max_size=80))
def test_best_fit_places_every_item_once_and_overflows_no_row(sizes):
    rows = best_fit(sizes, 50)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in row) <= 50 for row in rows)


@given(st.lists(st.integers(1, 50), max_size=80))
def test_best_fit_equals_looking_at_every_open_row(sizes):
    rooms = []
    for size in sizes:
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - size)
        else:
            rooms.append(50 - size)
    rows = best_fit(sizes, 50)
    assert sorted(rooms) == sorted(50 - sum(sizes[item] for item in row) for row in rows)


@given(sizes_strategy, st.integers(0, 3), st.integers(0, 5))
def test_every_conversation_comes_once_an_epoch(sizes, seed, epoch):
    rows = ChatRows([(chat_shard(sizes), 1)], LENGTH, seed)
    came = Counter(item for row in rows.epoch(epoch) for item in row)
    assert came == Counter((0, n) for n, size in enumerate(sizes) if size <= LENGTH + 1)
    assert rows.left_out == {"c": sum(size > LENGTH + 1 for size in sizes)}


@given(sizes_strategy, st.integers(0, 3))
def test_chat_rows_hold_whole_conversations_in_segments_of_their_own(sizes, seed):
    shard = chat_shard(sizes)
    rows = ChatRows([(shard, 1)], LENGTH, seed)
    batch = rows.take(0, len(rows.epoch(0)))
    for tokens, segments, loss in zip(
        batch["tokens"], batch["segments"], batch["loss"], strict=True
    ):
        assert np.array_equal(tokens == PAD, segments == -1)
        for segment in range(segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
            conversation = tokens[at[0]] - 100
            assert len(at) == sizes[conversation]
            start = shard.offsets[conversation]
            learn = shard.loss[start : start + len(at)]
            # loss[t] speaks of token t + 1, and a conversation's first token is never a target.
            assert np.array_equal(loss[at[0] : at[-1]], learn[1:])
        crossing = segments[1:] != segments[:-1]
        assert not loss[crossing].any()
        assert not loss[segments[1:] == -1].any()


@given(st.integers(0, 40), st.integers(1, 7), st.integers(0, 3))
def test_batches_depend_on_seed_and_step_alone(step, rows, seed):
    text = [(text_shard("a", 50), 1.0), (text_shard("b", 60), 2.0)]
    chat = [(chat_shard([5, 9, 17, 30, 3, 12]), 1.5)]
    for kind, shards in ((TextRows, text), (ChatRows, chat)):
        resumed = kind(shards, LENGTH, seed).batch(step, rows)
        going = kind(shards, LENGTH, seed)
        for before in range(step):
            going.batch(before, rows)
        for key, value in going.batch(step, rows).items():
            assert np.array_equal(value, resumed[key]), key


def test_going_back_to_an_earlier_step_gives_it_again():
    rows = ChatRows([(chat_shard([5, 9, 17, 30, 3, 12]), 1)], LENGTH, 0)
    first = rows.batch(0, 3)
    rows.batch(40, 3)
    assert np.array_equal(rows.batch(0, 3)["tokens"], first["tokens"])


def test_shapes_and_types():
    sources = [
        TextRows([(text_shard("a", 50), 1)], LENGTH, 0),
        ChatRows([(chat_shard([5, 9]), 1)], LENGTH, 0),
    ]
    for source in sources:
        batch = source.batch(3, 4)
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "tokens": ((4, LENGTH + 1), np.int32),
            "segments": ((4, LENGTH + 1), np.int32),
            "loss": ((4, LENGTH), np.float32),
        }


def test_text_segments_change_after_each_end_and_first_tokens_have_no_weight():
    batch = TextRows([(text_shard("a", 50, size=6), 1)], LENGTH, 1).batch(0, 8)
    tokens, segments = batch["tokens"], batch["segments"]
    assert np.array_equal(np.diff(segments, axis=1), (tokens[:, :-1] == END).astype(int))
    assert np.array_equal(batch["loss"] == 0, tokens[:, :-1] == END)
    assert (segments[:, 0] == 0).all()


def test_text_mixture_follows_the_weights():
    shards = [(text_shard("a", 50), 3), (text_shard("b", 60), 1), (text_shard("c", 70), 0)]
    tokens = TextRows(shards, LENGTH, 0).take(0, 4000)["tokens"]
    share = (tokens == 50).any(axis=1).mean()
    assert 0.72 < share < 0.78
    assert not (tokens == 70).any()


def test_text_windows_reach_both_ends_of_a_shard():
    shard = TextShard("a", np.arange(100, 100 + LENGTH + 3, dtype="<u2"))
    tokens = TextRows([(shard, 1)], LENGTH, 0).take(0, 200)["tokens"]
    assert set(tokens[:, 0]) == {100, 101, 102}


def test_chat_weight_repeats_and_samples():
    often, part = chat_shard([4] * 10, "often"), chat_shard([4] * 10, "part")
    rows = ChatRows([(often, 2), (part, 0.3)], LENGTH, 0)
    came = Counter(item for row in rows.epoch(0) for item in row)
    assert all(came[0, n] == 2 for n in range(10))
    assert sum(came[1, n] for n in range(10)) == 3
    later = Counter(item for row in rows.epoch(1) for item in row)
    assert {n for n in range(10) if came[1, n]} != {n for n in range(10) if later[1, n]}


def test_mixture_takes_fixed_numbers_of_rows_and_shuffles():
    text = TextRows([(text_shard("a", 50), 1)], LENGTH, 0)
    chat = ChatRows([(chat_shard([5, 9, 20]), 1)], LENGTH, 0)
    mixture = Mixture([(text, 0.75), (chat, 0.25)], rows=8, seed=5)
    assert mixture.counts == [6, 2]
    order = []
    for step in range(3):
        batch = mixture.batch(step, 8)
        is_text = (batch["tokens"] == 50).any(axis=1)
        assert is_text.sum() == 6
        order.append(tuple(is_text))
        again = Mixture([(text, 0.75), (chat, 0.25)], rows=8, seed=5).batch(step, 8)
        assert np.array_equal(batch["tokens"], again["tokens"])
    assert len(set(order)) > 1


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=5), st.integers(40, 200))
def test_shares_add_up(weights, rows):
    counts = shares(weights, rows)
    assert sum(counts) == rows
    exact = [weight / sum(weights) * rows for weight in weights]
    assert all(abs(count - wanted) < 1 for count, wanted in zip(counts, exact, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextRows([(text_shard("a", 5, 1, 3), 1)], LENGTH, 0), "fewer than a row"),
        (lambda: TextRows([(text_shard("a", 5), 0)], LENGTH, 0), "no shard has a weight"),
        (lambda: TextRows([(text_shard("a", 5), -1)], LENGTH, 0), "not 0 or more"),
        (lambda: ChatRows([(chat_shard([99]), 1)], LENGTH, 0), "no conversation fits"),
        (lambda: ChatRows([(chat_shard([9]), -1)], LENGTH, 0), "not 0 or more"),
        (lambda: shares([1, 0.001], 8), "too few"),
        (lambda: shares([0, 0], 8), "not all 0"),
    ],
)
def test_what_cannot_be_packed_is_said(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_mixture_needs_rows_of_one_length():
    text = TextRows([(text_shard("a", 50), 1)], LENGTH, 0)
    other = TextRows([(text_shard("a", 50), 1)], LENGTH - 1, 0)
    with pytest.raises(ConfigError, match="one length"):
        Mixture([(text, 1), (other, 1)], 8, 0)
    with pytest.raises(ConfigError, match="made for 8 rows"):
        Mixture([(text, 1)], 8, 0).batch(0, 4)


def test_shards_are_checked_when_read(tmp_path):
    with pytest.raises(ConfigError, match="k2mlx data build"):
        TextShard.read(tmp_path / "a")
    (tmp_path / "a.json").write_text(json.dumps({"name": "a", "kind": "text", "tokens": 3}))
    np.array([1, 2], "<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(ConfigError, match="expected 3 values, got 2"):
        TextShard.read(tmp_path / "a")
    with pytest.raises(ConfigError, match="expected a shard of kind chat, got text"):
        ChatShard.read(tmp_path / "a")

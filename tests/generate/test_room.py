"""Admission: what is allocated for requests never exceeds what was counted before."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.cache import BatchCache, LatentCache
from k2mlx.errors import RequestError
from k2mlx.generate.prefix import PrefixStore
from k2mlx.generate.room import Room

LAYERS, WIDTH = 2, 3
ROW = LAYERS * WIDTH * 4


def filled(length: int) -> list[LatentCache]:
    caches = [LatentCache() for _ in range(LAYERS)]
    for cache in caches:
        cache.extend({"rows": mx.zeros((1, length, WIDTH))})
    return caches


def taken(caches: list[LatentCache]) -> int:
    return sum(cache.nbytes for cache in caches)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.data())
def test_what_is_allocated_was_counted_before(thousands, copies, data):
    """Requests come, fill a cache of their own, join a batch, grow in it and leave it with a copy
    of their rows, in any order; a joiner and one whose rows are copied are in two places at once.
    """
    room = Room(ROW, thousands * 1000 * ROW, streams=5, layers=LAYERS, copies=copies)
    batch, slots = BatchCache(LAYERS), []  # of each slot: what its request may come to hold
    for _ in range(data.draw(st.integers(1, 12))):
        length = data.draw(st.integers(1, 900))
        limits = [*slots, length]
        if data.draw(st.integers(0, 2)) and room.fits(slots, length, [batch.held]):
            counted = room.bytes_for(limits, [batch.held])
            own = filled(data.draw(st.integers(1, length)))
            spare = 0
            if copies and slots:
                spare = taken(batch.take(data.draw(st.integers(0, len(slots) - 1))))
            if slots:
                batch.admit(own)
            else:
                batch = BatchCache(LAYERS)
                batch.admit(own)
            slots.append(length)
            # The largest that one layer may have twice while it is made anew.
            twice = max(batch.nbytes, taken(own)) // LAYERS
            if len(slots) > 1:
                assert batch.nbytes + taken(own) + spare + twice <= counted
                assert counted <= room.memory
            else:
                assert taken(own) + twice <= counted
        elif slots:
            counted = room.bytes_for(slots, [batch.held])
            slot = data.draw(st.integers(0, len(slots) - 1))
            assert batch.nbytes + taken(batch.take(slot)) <= counted
            batch.release(slot)
            slots[slot] = slots[-1]
            slots.pop()
            if not slots:
                batch = BatchCache(LAYERS)
    while (
        slots
        and max(batch.lengths) < max(slots)
        and all(n < most for n, most in zip(batch.lengths, slots, strict=True))
    ):
        counted = room.bytes_for(slots, [batch.held])
        new = min(most - n for n, most in zip(batch.lengths, slots, strict=True))
        for layer in range(LAYERS):
            batch[layer].append(mx.zeros((len(slots), new, WIDTH)))
        batch.advance(new)
        assert batch.nbytes <= counted


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 61))
def test_a_request_is_refused_with_both_numbers(length, memory, layers):
    room = Room(3, 3 * memory, streams=4, layers=layers)
    assert room.bytes_for([room.most()]) <= room.memory
    if length <= room.most():
        room.check(length, 0)
    else:
        with pytest.raises(RequestError, match=f"room for {room.most()} tokens; lower max_tokens"):
            room.check(length, 0)


@given(st.lists(st.integers(1, 900), max_size=6), st.integers(1, 900), st.integers(1, 9000))
def test_ranks_with_other_rows_decide_alike(lengths, length, memory):
    one, other = (Room(row, row * memory, streams=4, layers=2) for row in (3, 70))
    assert one.fits(lengths, length) == other.fits(lengths, length)
    assert one.most() == other.most()


@given(st.lists(st.integers(1, 600), min_size=1, max_size=5), st.integers(0, 40_000), st.data())
def test_kept_prefixes_yield_but_not_what_the_request_goes_on_from(lengths, most, data):
    store = PrefixStore(10**9, lambda: [LatentCache() for _ in range(LAYERS)])
    prompts = [[100 + i] * length for i, length in enumerate(lengths)]
    for prompt in prompts:
        store.keep(prompt, filled(len(prompt)))
    chosen = data.draw(st.sampled_from(prompts))
    store.shrink(most, [*chosen, 1])
    given_away = store.take([*chosen, 1])
    assert given_away.tokens == len(chosen)
    assert store.nbytes <= most
    store.keep(chosen, filled(len(chosen)))
    store.shrink(most)
    assert store.nbytes <= most

"""The latent cache: rows go in and come out, one sequence at a time and several at once."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.cache import BatchCache, LatentCache
from k2mlx.errors import RequestError
from k2mlx.model import Model
from tests.models import TINY, build, random_weights

RANK, ROPE = 64, 8
forms = st.sampled_from([16, 8])


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def rows(seed: int, length: int, batch: int = 1) -> mx.array:
    return mx.random.normal((batch, length, RANK + ROPE), key=mx.random.key(seed))


def same(a, b) -> bool:
    a, b = ([x] if isinstance(x, mx.array) else x for x in (a, b))
    return all(mx.array_equal(x, y).item() for x, y in zip(a, b, strict=True))


@settings(max_examples=60)
@given(forms, st.integers(0, 99), st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
def test_exported_rows_make_the_same_cache(bits, seed, lengths, data):
    """Cut anywhere into pieces and put together again, in this cache's form, bit by bit."""
    cache = LatentCache(bits, RANK)
    for i, length in enumerate(lengths):
        cache.append(rows(seed + i, length))
    total = sum(lengths)
    cuts = sorted({0, total, *data.draw(st.lists(st.integers(0, total), max_size=4))})
    copy = LatentCache(bits, RANK)
    for start, stop in pairwise(cuts):
        parts = cache.export(start, stop)
        assert all(part.shape[1] == stop - start for part in parts.values())
        copy.extend(parts)
    assert copy.offset == cache.offset == total
    assert copy.form == cache.form == str(bits)
    assert same(copy.state, cache.state)
    kept = data.draw(st.integers(0, total))
    before = [np.array(part) for part in cache.export(0, kept).values()]
    cache.trim(total - kept)
    cache.append(rows(seed + 50, 5))
    copy.trim(total - kept)
    copy.append(rows(seed + 50, 5))
    assert same(copy.state, cache.state)
    for was, is_ in zip(before, cache.export(0, kept).values(), strict=True):
        assert np.array_equal(was, is_)


def test_an_export_holds_its_own_bytes_only():
    """What is exported outlives the cache without holding the cache's buffers."""
    cache = LatentCache()
    cache.append(rows(0, 4096))
    mx.eval(cache.state)
    parts = cache.export(0, 4096), cache.export(100, 101)
    mx.eval(parts)
    whole = cache.state[:, 100:101]
    kept = np.array(whole)
    del whole
    before = mx.get_active_memory()
    bytes_of_cache = cache.nbytes
    del cache
    mx.synchronize()
    assert before - mx.get_active_memory() >= bytes_of_cache
    assert np.array_equal(parts[1]["rows"], kept)


@settings(max_examples=40)
@given(forms, st.integers(1, 600), st.integers(1, 600))
def test_nbytes_counts_what_is_allocated(bits, first, second):
    cache = LatentCache(bits, RANK)
    assert cache.nbytes == 0
    for length in (first, second):
        cache.append(rows(0, length))
    a_row = 4 * (RANK + ROPE) if bits == 16 else RANK + 2 * 4 + 4 * ROPE
    room = -(-(first + second) // 256) * 256
    assert cache.nbytes in (room * a_row, (-(-first // 256) * 256) * a_row)
    assert cache.nbytes >= (first + second) * a_row


def test_eight_bits_take_58_percent_of_16_at_k2s_sizes():
    sizes = {}
    for bits in (16, 8):
        cache = LatentCache(bits, 512)
        cache.append(mx.zeros((1, 256, 576), mx.bfloat16))
        sizes[bits] = cache.nbytes / 256
    print(f"bytes a token a layer: {sizes}")
    assert sizes == {16: 1152, 8: 512 + 2 * 8 * 2 + 2 * 64}


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 400))
def test_rows_in_8_bits_are_off_by_a_step_at_most(seed, length):
    """A step is (largest - smallest) / 255 of a group of 64; the rotary part is exact."""
    given_ = rows(seed, length)
    got = LatentCache(8, RANK).append(given_).expanded(slice(0, length))
    latent = np.asarray(given_[..., :RANK], np.float64)
    step = (latent.max(-1) - latent.min(-1)) / 255
    off = np.abs(np.asarray(got[..., :RANK]) - latent) / step[..., None]
    # Half a step, but MLX moves the grid so that zero is on it, which may cut the far end off.
    assert off.max() <= 1.1
    assert off.mean() <= 0.3
    assert mx.array_equal(got[..., RANK:], given_[..., RANK:]).item()


def test_misuse_is_refused():
    with pytest.raises(RequestError, match="got 4, wanted 16"):
        LatentCache(4, RANK)
    with pytest.raises(RequestError, match="kv_lora_rank = 40, wanted a multiple of 64"):
        LatentCache(8, 40)
    cache, eight = LatentCache(), LatentCache(8, RANK)
    cache.append(rows(0, 3))
    with pytest.raises(ValueError, match="export: got 1 to 4"):
        cache.export(1, 4)
    eight.append(rows(0, 3))
    with pytest.raises(ValueError, match="extend: got"):
        eight.extend(cache.export(0, 3))
    batch = BatchCache(1)
    with pytest.raises(ValueError, match="admit: got 1 layers of form 8"):
        batch.admit([eight])
    with pytest.raises(ValueError, match="admit: got 1 layers of form 16 with 0 tokens"):
        batch.admit([LatentCache()])
    with pytest.raises(ValueError, match="release: got slot 0"):
        batch.release(0)
    batch.admit([cache])
    with pytest.raises(ValueError, match="got 2 sequences, wanted 1"):
        batch[0].append(rows(0, 1, batch=2))
    with pytest.raises(ValueError, match="trim: got 3, wanted 0 to 2"):
        batch.trim(0, 3)


CONFIG = TINY.__class__(**(vars(TINY) | {"kv_lora_rank": RANK}))


@pytest.fixture(scope="module")
def model() -> Model:
    return build(CONFIG, random_weights(CONFIG, 5))


@settings(max_examples=40)
@given(st.data(), st.integers(0, 999))
def test_sequences_together_are_each_one_alone(model, data, seed):
    """Joins, leaves, steps of one or several tokens, tokens taken back and slots taken out, in any
    order and at any lengths: the same logits as alone, and the same cache."""
    r = np.random.default_rng(seed)
    bits = data.draw(forms)
    batch, alone = model.make_batch_cache(bits), []
    act = st.sampled_from(["join", "join", "step", "step", "leave", "trim", "take"])
    for action in data.draw(st.lists(act, min_size=2, max_size=14)):
        if action == "join" and len(alone) < 5:
            cache = model.make_cache(bits)
            prompt = mx.array(r.integers(0, 96, (1, int(r.choice([1, 3, 20, 254, 300])))))
            mx.eval(model.hidden(prompt, cache))
            assert batch.admit(cache) == len(alone)
            alone.append(cache)
        elif not alone:
            continue
        elif action == "step":
            tokens = mx.array(r.integers(0, 96, (len(alone), int(r.choice([1, 1, 4])))))
            got = model(tokens, batch)
            wanted = [model(tokens[b : b + 1], cache) for b, cache in enumerate(alone)]
            assert relative(got, mx.concatenate(wanted)) <= (1e-5 if bits == 16 else 1e-3)
        elif action == "leave":
            slot = int(r.integers(len(alone)))
            batch.release(slot)
            alone[slot] = alone[-1]
            alone.pop()
        elif action == "trim":
            slot = int(r.integers(len(alone)))
            count = int(r.integers(alone[slot][0].offset))
            batch.trim(slot, count)
            for layer in alone[slot]:
                layer.trim(count)
        elif action == "take":
            slot = int(r.integers(len(alone)))
            for got, wanted in zip(batch.take(slot), alone[slot], strict=True):
                assert got.offset == wanted.offset
                if bits == 16:
                    assert relative(got.state, wanted.state) <= 1e-5
        assert batch.lengths == [cache[0].offset for cache in alone]
        assert len(batch) == len(alone)


def test_what_is_taken_out_is_what_was_admitted(model):
    """In 8 bits too, bit by bit, whatever the others do."""
    for bits in (16, 8):
        batch, caches = model.make_batch_cache(bits), []
        for length in (40, 300, 7):
            cache = model.make_cache(bits)
            tokens = mx.random.randint(0, 96, (1, length), key=mx.random.key(length))
            mx.eval(model.hidden(tokens, cache))
            batch.admit(cache)
            caches.append(cache)
        batch.release(0)
        for slot, cache in ((0, caches[2]), (1, caches[1])):
            for got, wanted in zip(batch.take(slot), cache, strict=True):
                assert same(got.state, wanted.state)


def test_memory_is_foreseen_and_given_back():
    batch = BatchCache(3)
    assert batch.bytes_for([100]) == 0

    def sequence(length: int) -> list[LatentCache]:
        caches = [LatentCache() for _ in range(3)]
        for cache in caches:
            cache.append(rows(0, length))
        return caches

    lengths = [100, 1000, 20, 30]
    for length in lengths:
        batch.admit(sequence(length))
    assert batch.nbytes == batch.bytes_for(lengths) == 3 * 4 * 1024 * 4 * (RANK + ROPE)
    batch.release(1)  # the long one: 256 positions are enough for the rest
    assert batch.lengths == [100, 30, 20]
    assert batch.nbytes == batch.bytes_for([100, 30, 20])
    for _ in range(3):
        batch.release(0)
    assert batch.nbytes == 0
    assert batch.bytes_for([100]) == 3 * 256 * 4 * (RANK + ROPE)  # now known without any
    assert batch.admit(sequence(5)) == 0


def test_a_step_writes_in_place(model):
    """A step holds nothing of the size of the cache: rows are not copied to add one."""
    batch = model.make_batch_cache()
    for seed in range(4):
        caches = model.make_cache()
        for cache in caches:
            cache.append(rows(seed, 5000))
        batch.admit(caches)
    tokens = mx.array([[1], [2], [3], [4]])
    mx.eval(model(tokens, batch))
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(model(tokens, batch))
    mx.synchronize()
    one_layer = batch.nbytes // 3
    peak = mx.get_peak_memory() - before
    print(f"a step holds {peak} bytes, a layer of the cache has {one_layer}")
    assert peak < one_layer / 2

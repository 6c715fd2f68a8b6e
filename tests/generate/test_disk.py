"""Prefixes on disk: what comes back is what was computed, and nothing that is wrong does harm."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from k2mlx.cache import LatentCache
from k2mlx.generate import Engine, Sampling, block, disk
from k2mlx.generate.disk import BLOCK, DiskStore
from k2mlx.generate.identity import model_identity
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.prefix import PrefixStore
from k2mlx.load import load
from tests.folders import write_folder
from tests.models import random_model

PLENTY = 10**9
GREEDY = Sampling(temperature=0, max_tokens=4)
LAYERS, WIDTH = 3, 5


def tokens_of(seed, count, low=17):
    return np.random.default_rng(seed).integers(low, 96, count).astype(np.int32)


def filled(tokens, dtype=mx.float32):
    """A cache with random rows that depend on the tokens."""
    random = np.random.default_rng(int(tokens.sum()))
    cache = [LatentCache() for _ in range(LAYERS)]
    for layer in cache:
        layer.append(mx.array(random.normal(size=(1, len(tokens), WIDTH))).astype(dtype))
    return cache


def rows(parts):
    return np.stack([np.array(part["rows"].astype(mx.float32))[0] for part in parts])


def exported(cache, count):
    return rows([layer.export(0, count) for layer in cache])


def save(store, tokens, cache):
    done = 0
    while store.working and done < len(tokens) // BLOCK * BLOCK:
        done = store.save(tokens, cache, done)
    store.flush()


@pytest.fixture
def opened(tmp_path):
    """opened(...) -> a DiskStore on the test's folder, closed after it; `said` are its warnings."""
    stores = []

    def make(folder=tmp_path / "prefix", budget=PLENTY, identity="model"):
        store = DiskStore(folder, budget, identity, warn=make.said.append)
        stores.append(store)
        return store

    make.said = []
    make.folder = tmp_path / "prefix"
    yield make
    for store in stores:
        store.close()


def files(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_what_was_saved_comes_back_bit_by_bit(opened, dtype):
    tokens = tokens_of(0, 3 * BLOCK + 10)
    cache = filled(tokens, dtype)
    save(opened(), tokens, cache)
    store = opened()
    assert len(files(opened.folder)) == 3
    for start in (0, BLOCK, 2 * BLOCK):
        parts, count = store.read(tokens, start)
        assert count == 3 * BLOCK - start
        assert [part["rows"].dtype for part in parts] == [dtype] * LAYERS
        wanted = exported(cache, 3 * BLOCK)[:, start:]
        assert (rows(parts) == wanted).all()
    assert store.read(tokens, 3 * BLOCK) == ([], 0)
    assert not opened.said


def test_the_files_are_safetensors(opened):
    tokens = tokens_of(0, BLOCK)
    cache = filled(tokens, mx.bfloat16)
    save(opened(), tokens, cache)
    (path,) = files(opened.folder)
    read, metadata = mx.load(str(path), return_metadata=True)
    assert sorted(read) == ["0.rows", "1.rows", "2.rows"]
    assert metadata["tokens"].split() == [str(token) for token in tokens]
    assert metadata["identity"] == "model"
    assert mx.array_equal(read["1.rows"], cache[1].export(0, BLOCK)["rows"])


@given(seed=st.integers(0, 99), cut=st.integers(0, 5 * BLOCK), other=st.booleans())
@settings(max_examples=25)
def test_only_the_shared_beginning_is_known(tmp_path_factory, seed, cut, other):
    folder = tmp_path_factory.mktemp("prefix")
    tokens = tokens_of(seed, 4 * BLOCK)
    store = DiskStore(folder, PLENTY, "model")
    save(store, tokens, filled(tokens))
    asked = tokens_of(seed, 5 * BLOCK)
    asked[:cut] = tokens[:cut] if cut <= len(tokens) else np.resize(tokens, cut)
    asked[cut : cut + 1] = 0  # another token than any that was drawn
    wanted = min(cut, len(tokens)) // BLOCK * BLOCK
    if other:
        store.close()
        store, wanted = DiskStore(folder, PLENTY, "another"), 0
    assert store.known(asked) == wanted
    assert store.read(asked)[1] == wanted
    store.close()


@given(seed=st.integers(0, 50), data=st.data())
@settings(max_examples=4, phases=[Phase.generate])  # each is some thousand tokens on the CPU
def test_logits_after_a_restart_are_those_from_scratch(tmp_path_factory, seed, data):
    """A random K2, branches of one long prompt, the disk below a small memory."""
    folder = tmp_path_factory.mktemp("prefix")
    model = random_model(seed)
    vocabulary = model.config.vocab_size
    long = np.random.default_rng(seed).integers(0, vocabulary, 700)

    def check(store, cut, tail):
        prompt = [*long[:cut].tolist(), *(np.random.default_rng(tail).integers(0, vocabulary, 20))]
        prompt = [int(token) for token in prompt]
        cache, known, _ = store.take(prompt)
        cache = cache or model.make_cache()
        assert {layer.offset for layer in cache} == {known}
        logits = model(mx.array([prompt[known:]]), cache)[0, -1]
        wanted = model(mx.array([prompt]), model.make_cache())[0, -1]
        scale = float(mx.abs(wanted).max())
        assert float(mx.abs(logits - wanted).max()) <= 1e-5 * max(scale, 1)
        store.keep(prompt, cache)
        return known

    cuts = st.tuples(st.integers(0, 700), st.integers(0, 3))
    store = PrefixStore(PLENTY, model.make_cache, DiskStore(folder, PLENTY, "m"))
    check(store, 700, 0)
    store.close()
    for memory in (PLENTY, 300 * model.config.num_hidden_layers * 100, 0):
        store = PrefixStore(memory, model.make_cache, DiskStore(folder, PLENTY, "m"))
        for cut, tail in data.draw(st.lists(cuts, min_size=1, max_size=2)):
            assert check(store, cut, tail) >= cut // BLOCK * BLOCK
            while data.draw(st.booleans()) and store.save_some():
                pass
        store.close()


DAMAGE = {
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "seven bytes": lambda content: content[:7],
    "another program's": lambda content: b"# notes\n" * 1000,
    "a bit of a tensor": lambda content: flipped(content, -3),
    "a bit of the header's length": lambda content: flipped(content, 1),
    "a bit of a token": lambda content: flipped(content, content.index(b'"tokens"') + 13),
    "a bit of a shape": lambda content: flipped(content, content.index(b'"shape"') + 13),
    "a header that is no object": lambda content: (4).to_bytes(8, "little") + b"[1] ",
}


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_ignored_and_removed(opened, damage):
    tokens = tokens_of(1, 3 * BLOCK)
    cache = filled(tokens)
    store = opened()
    save(store, tokens, cache)
    second = opened.folder / f"{block.labels('model', tokens)[1].name}.safetensors"
    second.write_bytes(DAMAGE[damage](second.read_bytes()))
    parts, count = store.read(tokens)
    assert count == BLOCK
    assert (rows(parts) == exported(cache, BLOCK)).all()
    assert not second.exists()
    save(store, tokens, cache)  # is written again
    assert store.read(tokens)[1] == 3 * BLOCK
    assert store.working and not opened.said


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_any_flipped_bit_is_seen(place, bit):
    tokens = tokens_of(2, BLOCK)
    (label,) = block.labels("model", tokens)
    content = b"".join(block.encode(label, block.export_block(filled(tokens), 0)))
    assert block.decode(label, np.frombuffer(content, np.uint8)) is not None
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    assert block.decode(label, np.frombuffer(bytes(changed), np.uint8)) is None


def test_another_blocks_file_under_this_name_is_not_it(opened):
    tokens = tokens_of(3, 2 * BLOCK)
    store = opened()
    save(store, tokens, filled(tokens))
    first, second = (
        opened.folder / f"{one.name}.safetensors" for one in block.labels("model", tokens)
    )
    first.write_bytes(second.read_bytes())
    assert store.read(tokens) == ([], 0)
    assert not first.exists() and second.exists()


def test_files_of_others_in_the_folder_are_left_alone(opened):
    opened.folder.mkdir()
    (opened.folder / "notes.txt").write_text("mine")
    (opened.folder / "model.safetensors").write_bytes(b"x" * 5000)
    store = opened(budget=4000)
    tokens = tokens_of(4, BLOCK)
    save(store, tokens, filled(tokens))
    assert (opened.folder / "notes.txt").read_text() == "mine"
    assert (opened.folder / "model.safetensors").exists()


def test_the_budget_is_kept_and_the_oldest_use_goes_first(opened):
    conversations = [tokens_of(seed, 4 * BLOCK) for seed in range(4)]
    store = opened()
    save(store, conversations[0], filled(conversations[0]))
    size = sum(path.stat().st_size for path in files(opened.folder)) // 4
    store = opened(budget=size * 21 // 2)
    for tokens in conversations[1:]:
        time.sleep(0.01)
        save(store, tokens, filled(tokens))
        assert sum(path.stat().st_size for path in files(opened.folder)) <= store.budget
        if tokens is conversations[1]:
            for path in files(opened.folder):  # a day passes
                os.utime(path, ns=(path.stat().st_mtime_ns - 86400 * disk.SECOND,) * 2)
            store.read(conversations[0])  # used: now the other one is the older
            store.flush()
    known = [store.known(tokens) // BLOCK for tokens in conversations]
    assert known[1] < 4, "the oldest was to go"
    assert known[0] >= known[1] and known[2] + known[3] >= 6


def test_of_one_conversation_the_last_blocks_go_first(opened):
    tokens = tokens_of(5, 6 * BLOCK)
    store = opened()
    save(store, tokens, filled(tokens))
    size = sum(path.stat().st_size for path in files(opened.folder))
    store = opened(budget=size // 2)
    assert 0 < store.known(tokens) <= 3 * BLOCK
    before = [path.stat().st_mtime_ns for path in files(opened.folder)]
    save(store, tokens, filled(tokens))  # what does not fit is not written again and again
    assert sum(path.stat().st_size for path in files(opened.folder)) <= store.budget
    assert len(before) and store.known(tokens) >= BLOCK


def test_use_is_noted_when_blocks_are_saved_again(opened):
    tokens = tokens_of(6, 2 * BLOCK)
    store = opened()
    save(store, tokens, filled(tokens))
    for path in files(opened.folder):
        os.utime(path, (1, 1))
    save(store, tokens, filled(tokens))
    assert all(path.stat().st_mtime > 10**9 for path in files(opened.folder))


KILLED = """
import io, os, sys
from pathlib import Path
from tests.generate.test_disk import DiskStore, PLENTY, filled, save, tokens_of

class Dying(io.FileIO):
    left = int(sys.argv[2])
    def write(self, data):
        if len(data) > Dying.left:
            super().write(data[: Dying.left])
            os._exit(9)
        Dying.left -= len(data)
        return super().write(data)

Path.open = lambda path, mode: Dying(path, mode)
tokens = tokens_of(7, 3 * 256)
save(DiskStore(Path(sys.argv[1]), PLENTY, "model"), tokens, filled(tokens))
"""


@pytest.mark.parametrize("left", [0, 5, 900, 9000, 17_500, 40_000])
def test_killed_while_writing(opened, left):
    """Half a header, half a tensor, the second block: what was renamed is sound."""
    command = [sys.executable, "-c", KILLED, str(opened.folder), str(left)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 9, done.stderr
    aside = list(opened.folder.glob(".*.partial"))
    assert len(aside) == 1
    tokens = tokens_of(7, 3 * BLOCK)
    cache = filled(tokens)
    store = opened()
    parts, count = store.read(tokens)
    assert count == BLOCK * len(files(opened.folder)) < 3 * BLOCK
    assert not count or (rows(parts) == exported(cache, count)).all()
    save(store, tokens, cache)
    assert store.read(tokens)[1] == 3 * BLOCK
    os.utime(aside[0], (1, 1))
    opened()
    assert not aside[0].exists()


TWO = """
import sys
from pathlib import Path
from tests.generate.test_disk import BLOCK, DiskStore, exported, filled, rows, save, tokens_of

store = DiskStore(Path(sys.argv[1]), int(sys.argv[2]), "model")
for turn in range(30):
    tokens = tokens_of(turn % 7, 4 * BLOCK)
    cache = filled(tokens)
    parts, count = store.read(tokens)
    assert not count or (rows(parts) == exported(cache, count)).all()
    save(store, tokens, cache)
assert store.working
store.close()
"""


@pytest.mark.parametrize("budget", [PLENTY, 200_000])
def test_two_processes_share_a_folder(opened, budget):
    """They write, read and remove the same blocks at once, and none sees anything wrong."""
    command = [sys.executable, "-c", TWO, str(opened.folder), str(budget)]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=root) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0 and err == b"", err
    size = sum(path.stat().st_size for path in files(opened.folder))
    assert size <= budget
    assert budget < PLENTY or len(files(opened.folder)) == 7 * 4
    assert not list(opened.folder.glob(".*"))


def test_a_folder_that_cannot_be_made_switches_it_off(opened, tmp_path):
    (tmp_path / "file").write_text("")
    store = opened(tmp_path / "file" / "prefix")
    tokens = tokens_of(8, BLOCK)
    assert not store.working
    assert store.known(tokens) == 0
    assert store.read(tokens) == ([], 0)
    assert len(opened.said) == 1 and "off until the next start" in opened.said[0]


FULL = """
import resource, sys
from pathlib import Path
from tests.generate.test_disk import DiskStore, filled, save, tokens_of

resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # as a full disk: write fails half way
store = DiskStore(Path(sys.argv[1]), 10**9, "model")
tokens = tokens_of(9, 4 * 256)
save(store, tokens, filled(tokens))
assert not store.working
store.close()
"""


def test_a_folder_that_may_not_be_read_any_more_holds_nothing(opened, monkeypatch):
    """As on a network's disk whose login has run out."""
    store, tokens = opened(), tokens_of(1, 2 * BLOCK)
    save(store, tokens, filled(tokens))

    def denied(path, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    assert store.known(tokens_of(1, 2 * BLOCK)) == 0


def test_a_writer_that_fails_switches_it_off(opened, monkeypatch):
    """Closing would wait for it for ever."""

    def fail(label, tensors):
        raise MemoryError

    monkeypatch.setattr(block, "encode", fail)
    store, tokens = opened(), tokens_of(1, 12 * BLOCK)
    prefix = PrefixStore(PLENTY, lambda: filled(tokens)[:0], store)
    prefix.keep(tokens.tolist(), filled(tokens))
    end = time.monotonic() + 5
    while prefix.save_some():
        assert time.monotonic() < end, "tries for ever"
    store.flush()
    assert not store.working
    assert "MemoryError()" in opened.said[0]


def test_a_full_disk_switches_it_off_with_one_line(opened):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 9000
    command = [sys.executable, "-c", FULL, str(opened.folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "k2mlx: prefix cache:" in done.stderr
    assert list(opened.folder.iterdir()) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_a_restarted_engine_reads_what_the_last_one_computed(tiny, tmp_path):
    prompt = [int(token) for token in tokens_of(10, 600)]
    settings = PrefixSettings(disk=PLENTY, folder=tmp_path)
    answers, cached = [], []
    for _ in range(2):
        with Engine(lambda: load(tiny), prefix=settings) as engine:
            generation = engine.submit(prompt, GREEDY, stop_ids=())
            answers.append(list(generation))
            cached.append((generation.stats.cached_tokens, generation.stats.disk_tokens))
            assert engine.info.prefix_disk == PLENTY
    assert answers[0] == answers[1]
    assert cached == [(0, 0), (2 * BLOCK, 2 * BLOCK)]


@pytest.mark.parametrize("budget", [0, 300 * LAYERS * WIDTH * 4])
def test_what_is_too_large_for_the_memory_is_saved_whole(opened, budget):
    tokens = tokens_of(12, 3 * BLOCK)
    cache = filled(tokens)
    store = PrefixStore(budget, lambda: [LatentCache() for _ in range(LAYERS)], opened())
    store.keep(tokens, cache)
    assert store.nbytes <= budget
    while store.save_some():
        pass
    store.close()
    assert opened().known(tokens) == 3 * BLOCK
    assert store._passing is None
    gone = PrefixStore(budget, lambda: [LatentCache() for _ in range(LAYERS)], opened())
    gone.keep(tokens, cache)
    gone.take([5, 6])  # a request begins: its memory comes first
    assert gone._passing is None


def test_saving_begins_while_no_request_waits(tiny, tmp_path):
    settings = PrefixSettings(disk=PLENTY, folder=tmp_path)
    with Engine(lambda: load(tiny), prefix=settings) as engine:
        list(engine.submit([int(token) for token in tokens_of(11, 600)], GREEDY, stop_ids=()))
        deadline = time.monotonic() + 20
        while len(files(tmp_path)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_engine_without_a_usable_folder_answers(tiny, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    settings = PrefixSettings(disk=PLENTY, folder=tmp_path / "file" / "prefix")
    with Engine(lambda: load(tiny), prefix=settings) as engine:
        assert len(list(engine.submit([20, 21], GREEDY, stop_ids=()))) == 4
    assert capfd.readouterr().err.count("k2mlx: prefix cache:") == 1


def test_the_identity_changes_with_weights_and_config(tmp_path):
    first = write_folder(tmp_path / "a", seed=1)
    weights = next(first.glob("*.safetensors"))
    times = (weights.stat().st_mtime_ns,) * 2
    seen = {model_identity(first)}
    assert model_identity(first) in seen
    trained = write_folder(tmp_path / "b", seed=2)  # same config and sizes, other values
    trained_weights = next(trained.glob("*.safetensors"))
    weights.write_bytes(trained_weights.read_bytes())
    os.utime(weights, ns=times)  # as `cp -p` or rsync would leave it
    seen.add(model_identity(first))
    os.utime(weights, ns=(times[0], times[1] + 1))
    seen.add(model_identity(first))
    config = first / "config.json"
    config.write_text(config.read_text().replace("50000", "50001"))
    seen.add(model_identity(first))
    assert len(seen) == 4


def test_the_default_budget_is_a_part_of_what_is_free(tmp_path, monkeypatch):
    free = disk.shutil.disk_usage(tmp_path).free
    assert disk.default_budget(tmp_path / "not" / "there") <= min(20 * 10**9, free)
    monkeypatch.setattr(disk, "MOST", 7)
    assert disk.default_budget(tmp_path) == 7

"""The MLX model against the NumPy reference, and against itself in its other forms."""

import shutil
from dataclasses import replace
from pathlib import Path
from threading import get_ident

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from k2mlx import model as model_module
from k2mlx.generate import Engine, Sampling
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.nn.mla import MLA
from k2mlx.tokenizer import ByteTokenizer
from tests.models import TINY, build, random_config, random_model, random_weights
from tests.reference import k2


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def draw(seed: int, config_of=random_config):
    """A config, weights and tokens whose router is never within 1e-5 of another choice; and how
    many draws it took, since a near tie may fall either way in float32."""
    for redrawn in range(10):
        config = config_of(seed * 100 + redrawn)
        weights = random_weights(config, seed * 100 + redrawn)
        tokens = np.random.default_rng(seed).integers(0, config.vocab_size, 24)
        wide = {k: v.astype(np.float64) for k, v in weights.items()}
        logits, margin = k2.forward(config, wide, tokens)
        if margin >= 1e-5:
            return config, weights, tokens, logits, redrawn
    raise AssertionError("ten draws in a row had a router tie: the draw is at fault")


def test_float32_logits_equal_the_float64_reference():
    redrawn = 0
    for seed in range(24):
        config, weights, tokens, wanted, again = draw(seed)
        redrawn += again
        got = build(config, weights)(mx.array(tokens[None]))[0]
        assert relative(got, wanted) <= 1e-4, (seed, config)
    print(f"{redrawn} of {24 + redrawn} draws had a router tie and were drawn again")
    assert redrawn <= 24


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(0, 40))
def test_plain_and_absorbed_attention_agree(seed, new, past):
    model = random_model(seed)
    attention, c = model.layers[0].self_attn, model.config
    r = mx.random.key(seed)
    keys = mx.random.split(r, 3)
    heads = (1, c.num_attention_heads, new)
    q_nope = mx.random.normal((*heads, c.qk_nope_head_dim), key=keys[0])
    q_rope = mx.random.normal((*heads, c.qk_rope_head_dim), key=keys[1])
    width = c.kv_lora_rank + c.qk_rope_head_dim
    rows = mx.random.normal((1, past + new, width), key=keys[2])
    plain = attention.plain(q_nope, q_rope, rows)
    assert relative(attention.absorbed(q_nope, q_rope, rows), plain) <= 1e-4


@settings(max_examples=30)
@given(st.integers(0, 999), st.lists(st.integers(1, 17), min_size=1, max_size=6))
def test_any_chunking_gives_the_same_logits_and_cache(seed, chunks):
    model = random_model(seed)
    tokens = mx.random.randint(0, 96, (1, sum(chunks)), key=mx.random.key(seed))
    whole = model.make_cache()
    wanted = model(tokens, whole)
    cache, parts, start = model.make_cache(), [], 0
    for chunk in chunks:
        parts.append(model(tokens[:, start : start + chunk], cache))
        start += chunk
    assert relative(mx.concatenate(parts, axis=1), wanted) <= 1e-4
    for a, b in zip(cache, whole, strict=True):
        assert a.offset == b.offset == sum(chunks)
        assert relative(a.state, b.state) <= 1e-4


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 300), st.integers(0, 300), st.integers(1, 20))
def test_trim_then_continue_is_never_having_gone_further(seed, kept, trimmed, new):
    model = random_model(seed % 7)
    key = mx.random.key(seed)
    tokens = mx.random.randint(0, 96, (1, kept + trimmed + new), key=key)
    straight, returned = model.make_cache(), model.make_cache()
    mx.eval(model.hidden(tokens[:, :kept], straight))
    mx.eval(model.hidden(tokens[:, :kept], returned))
    if trimmed:
        mx.eval(model.hidden(tokens[:, kept : kept + trimmed], returned))
    for layer in returned:
        layer.trim(trimmed)
    rest = tokens[:, kept + trimmed :]
    assert mx.array_equal(model(rest, returned), model(rest, straight)).item()


def test_trim_of_more_than_there_is_is_refused():
    model = random_model(1)
    cache = model.make_cache()
    model(mx.array([[1, 2, 3]]), cache)
    with pytest.raises(ValueError, match="trim: got 4"):
        cache[0].trim(4)


def test_the_cache_holds_latent_and_rope_values_only():
    model = random_model(3)
    cache = model.make_cache()
    model(mx.array([[1, 2, 3, 4, 5]]), cache)
    c = model.config
    assert cache[0].state.shape == (1, 5, c.kv_lora_rank + c.qk_rope_head_dim)


@settings(max_examples=20)
@given(st.integers(0, 999), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_segments_keep_packed_documents_apart(seed, lengths):
    """Rotary scores depend on distances only, so a packed document equals the document alone."""
    model = random_model(seed)
    tokens = mx.random.randint(0, 96, (1, sum(lengths)), key=mx.random.key(seed))
    ids = mx.array([[i for i, n in enumerate(lengths) for _ in range(n)]])
    packed = model.hidden(tokens, segments=ids)
    start = 0
    for n in lengths:
        alone = model.hidden(tokens[:, start : start + n])
        assert relative(packed[:, start : start + n], alone) <= 1e-4
        start += n


def test_router_load_counts_each_choice():
    model = Model(TINY)
    model.reset(0)
    load: list[mx.array] = []
    model.hidden(mx.random.randint(0, 96, (2, 10)), router_load=load)
    assert len(load) == TINY.num_hidden_layers - TINY.first_k_dense_replace
    assert all(counts.sum().item() == 2 * 10 * TINY.num_experts_per_tok for counts in load)


def test_reset_depends_on_the_seed_alone():
    a, b, c = Model(TINY), Model(TINY), Model(TINY)
    a.reset(1), b.reset(1), c.reset(2)
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(a(tokens), b(tokens)).item()
    assert not mx.array_equal(a(tokens), c(tokens)).item()


@pytest.fixture
def compiles():
    """mx.compile at work, which the tests are otherwise without (conftest.py)."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++, which MLX compiles for a CPU with")
    mx.enable_compile()
    yield
    mx.disable_compile()


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.usefixtures("compiles")
def test_the_compiled_step_of_a_gpu(seed, monkeypatch):
    """The same numbers on whatever device is here, with one cache and with a batch of lengths."""
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, model.config.vocab_size, n).tolist() for n in rng.integers(1, 20, 3)]
    steps = rng.integers(0, model.config.vocab_size, (3, 5, 1)).tolist()

    def run(compiled: bool) -> list[mx.array]:
        monkeypatch.setattr(
            model_module, "decodes_compiled", lambda t: compiled and t.shape[1] == 1
        )
        batch, out = model.make_batch_cache(), []
        for prompt, tokens in zip(prompts, steps, strict=True):
            cache = model.make_cache()
            model(mx.array([prompt]), cache)
            batch.admit(cache)
            out += [model(mx.array([token]), cache) for token in tokens]
        out += [model(mx.array([s[i] for s in steps]), batch) for i in range(5)]
        return out

    for got, wanted in zip(run(True), run(False), strict=True):
        assert mx.abs(got - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


def halved(model):
    model.update(tree_map(lambda v: v * 0.5, model.parameters()))


def another_norm(model):
    norm = nn.RMSNorm(model.config.hidden_size)
    norm.weight = 0.5 + mx.arange(model.config.hidden_size) / 7
    model.update_modules({"model": {"norm": norm}})


def a_layer_halved(model):
    layer = model.layers[0]
    layer.update(tree_map(lambda v: v * 0.5, layer.parameters()))
    model.update({})


@pytest.mark.parametrize("change", [halved, another_norm, a_layer_halved])
@pytest.mark.usefixtures("compiles")
def test_a_compiled_step_is_dropped_with_its_weights(change, monkeypatch):
    monkeypatch.setattr(model_module, "decodes_compiled", lambda t: t.shape[1] == 1)
    model = random_model(1)
    token = mx.array([[5]])
    before = model(token, model.make_cache())
    change(model)
    after = model(token, model.make_cache())
    monkeypatch.setattr(model_module, "decodes_compiled", lambda t: False)
    assert not mx.allclose(before, after).item()
    assert mx.allclose(after, model(token, model.make_cache()), atol=1e-6).item()


@pytest.mark.usefixtures("compiles")
def test_engines_that_take_turns_on_one_model_do_not_trace_it_again(monkeypatch):
    """`project` runs as Python only while a step is traced: prompts of one token have no other."""
    monkeypatch.setattr(model_module, "decodes_compiled", lambda t: t.shape[1] == 1)
    traces, project = [], MLA.project

    def counted(self, *args):
        traces.append(get_ident())
        return project(self, *args)

    monkeypatch.setattr(MLA, "project", counted)
    config = replace(TINY, vocab_size=17 + 256)
    model = Model(config)
    model.reset(0)
    mx.eval(model.parameters())
    loaded = Loaded(model, ByteTokenizer(), config, Path("models/none"), bytes=0)
    options = {"reuse": False, "wired": False, "awake": False}
    with Engine(lambda: loaded, **options) as one, Engine(lambda: loaded, **options) as two:

        def answer(engine):
            return list(engine.submit([40], Sampling(temperature=0, max_tokens=4), stop_ids=()))

        first = [answer(engine) for engine in (one, two, one, two)]
        assert len(set(traces)) == 2
        before = len(traces)
        later = [answer(engine) for engine in (one, two) * 3]
        assert len(traces) == before
        assert all(said == first[0] for said in first + later)

"""Tensor mode: shares that add up to the whole model; test_tensor_ring.py sends them."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map

from k2mlx.config import ModelConfig, Quantization, QuantSpec
from k2mlx.errors import PlanError
from k2mlx.load import expand_all_but_experts
from k2mlx.model import Model
from k2mlx.nn.quant import QuantizedMatrix
from k2mlx.parallel.tensor import Share, check_shares, load_share, shard
from k2mlx.weights.load import load_model, save_model
from tests.models import TINY
from tests.parallel.shares import WIDE, answers, bytes_of, on_ranks, wide_model, worst
from tests.weights.slices import official_slice

ROOT = Path(__file__).parent.parent.parent
K2_GRID = QuantSpec(4, 32, "symmetric")
SPECS = [None, K2_GRID, *(QuantSpec(b, g) for b in (4, 8) for g in (32, 64))]


@st.composite
def shared_out(draw) -> tuple[ModelConfig, int]:
    """A config and a number of ranks that it can be shared out to."""
    size = draw(st.sampled_from([2, 4]))
    experts, rest, head = (draw(st.sampled_from(SPECS)) for _ in range(3))
    one, other = (1 if s is None else s.group_size for s in (experts, rest))
    times = st.integers(1, 2)
    heads = size * draw(times)
    value = other // draw(st.sampled_from([1, 2])) if other > 1 else draw(st.sampled_from([8, 12]))
    if heads // size * value % other:
        heads *= 2
    # The shared expert is as wide as a routed one, and stored as the rest is.
    width = size * max(one, other, 8) * draw(times)
    return (
        replace(
            TINY,
            vocab_size=64 * draw(times),
            hidden_size=64 * draw(times),
            intermediate_size=size * max(other, 12) * draw(times),
            moe_intermediate_size=width,
            num_hidden_layers=draw(st.integers(1, 3)),
            first_k_dense_replace=draw(st.integers(0, 2)),
            num_attention_heads=heads,
            n_routed_experts=draw(st.sampled_from([4, 16])),
            num_experts_per_tok=draw(st.integers(1, 4)),
            n_shared_experts=draw(times),
            q_lora_rank=64,
            kv_lora_rank=64,
            qk_nope_head_dim=draw(st.sampled_from([8, 16])),
            v_head_dim=value,
            rope_scaling=draw(st.sampled_from([None, WIDE.rope_scaling])),
            quantization=Quantization(experts, rest, QuantSpec(4, 32), head),
            checkpoint_format="k2mlx",
        ),
        size,
    )


class Alone:
    """Rank 0 of a group whose others are not there: enough to load."""

    def __init__(self, size: int):
        self._size = size

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return self._size


@settings(max_examples=20)
@given(shared_out(), st.integers(0, 1000), st.booleans())
def test_the_ranks_answer_as_the_whole_model(drawn, seed, expanded):
    config, size = drawn
    wanted = answers(wide_model(config, seed), seed)

    def rank(group):
        model = shard(wide_model(config, seed), group)
        if expanded:  # as load.load does on a CPU
            expand_all_but_experts(model)
        return answers(model, seed)

    results = on_ranks(size, rank)
    for got in results:
        assert worst(got, wanted) <= 1e-5
        assert all(np.array_equal(a, b) for a, b in zip(got, results[0], strict=True))


def put_together(path: str, shares: list[mx.array]) -> mx.array:
    """The inverse of a cut, written from the issue's words and not from the module's table."""
    if path.endswith("gate_up_proj"):
        halves = [mx.split(share, 2, axis=-2) for share in shares]
        gate, up = (mx.concatenate([h[i] for h in halves], axis=-2) for i in (0, 1))
        return mx.concatenate([gate, up], axis=-2)
    by_columns = "o_proj" in path or "down_proj" in path
    return mx.concatenate(shares, axis=-1 if by_columns else -2)


@settings(max_examples=30)
@given(shared_out(), st.integers(0, 1000))
def test_shares_are_disjoint_and_whole(drawn, seed):
    """Every value of a matrix that is cut lies on one rank; every other is the same on all. Codes
    and scales are cut alike: a share put back together is the matrix, part by part."""
    config, size = drawn
    cut = 0
    for name, value in wide_model(config, seed).named_parameters().items():
        path, _, kind = name.rpartition(".")
        shares = [Share(rank, size)(path, {kind: value})[kind] for rank in range(size)]
        if shares[0].size == value.size:
            assert all(mx.array_equal(share, value).item() for share in shares)
            kept = ("a_proj", "a_proj_with_mqa", "embed_tokens", "mlp.gate", "norm")
            assert path.endswith(kept), path
        else:
            cut += 1
            assert {share.size * size for share in shares} == {value.size}
            assert mx.array_equal(put_together(path, shares), value).item(), path
    assert cut


def test_nothing_but_the_heads_differs_in_a_ranks_attention():
    whole = wide_model(WIDE, 0)

    def rank(group):
        return shard(wide_model(WIDE, 0), group)

    for model in on_ranks(2, rank):
        for mine, theirs in zip(model.layers, whole.layers, strict=True):
            a, b = mine.self_attn, theirs.self_attn
            assert replace(a.config, num_attention_heads=4) == b.config
            assert a.config.num_attention_heads == 2
            assert a.scale == b.scale and a._rope.mscale == b._rope.mscale
            assert mx.array_equal(a._rope.periods, b._rope.periods).item()
            assert [a.absorbed_is_cheaper(n, 300) for n in range(1, 300)] == [
                b.absorbed_is_cheaper(n, 300) for n in range(1, 300)
            ]
            kept = [m for m in mine.modules() if isinstance(m, QuantizedMatrix)]
            assert kept and all(m.weight.shape[0] == m.scales.shape[0] for m in kept)
        assert model.config == whole.config
        x = mx.random.normal((5, WIDE.hidden_size))
        mine, theirs = (m.layers[1].mlp.gate(x) for m in (model, whole))
        assert all(mx.array_equal(a, b).item() for a, b in zip(mine, theirs, strict=True))


# --- What cannot be shared out -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({}, 3, "got 3 machines, wanted 2 or 4"),
        ({"num_attention_heads": 6}, 4, "num_attention_heads: got 6, wanted a multiple of 4"),
        ({"v_head_dim": 16}, 4, "self_attn.o_proj: got a width of 64 in groups of 32"),
        ({"intermediate_size": 96}, 2, "layers.0.mlp.down_proj: got a width of 96 in groups of 32"),
        ({"moe_intermediate_size": 64}, 4, "experts.down_proj: got a width of 64 in groups of 32"),
        ({"vocab_size": 98}, 4, "lm_head: got a width of 98, wanted a multiple of 4 for 4"),
        (
            {"moe_intermediate_size": 160, "checkpoint_format": "int4", "quantization": None},
            2,
            "layers.1.mlp.experts.down_proj: got a width of 160 in groups of 32",
        ),
    ],
)
def test_what_does_not_split_is_refused_in_one_line(changes, size, words):
    with pytest.raises(PlanError) as refused:
        check_shares(replace(WIDE, **changes), size)
    message = str(refused.value)
    assert words in message and "--parallel pipeline" in message and "\n" not in message


def test_k2_splits_and_k2_nano_does_not():
    k2 = ModelConfig.load(ROOT / "models" / "k2-nano")
    for size in (2, 4):
        with pytest.raises(PlanError, match=r"down_proj: got a width of 32 in groups of 32"):
            check_shares(k2, size)
        check_shares(
            replace(
                k2,
                vocab_size=163840,
                hidden_size=7168,
                intermediate_size=18432,
                moe_intermediate_size=2048,
                num_attention_heads=64,
                v_head_dim=128,
            ),
            size,
        )


@settings(max_examples=100)
@given(shared_out(), st.data())
def test_it_is_refused_just_when_a_matrix_cannot_be_cut(drawn, data):
    """`check_shares` says beforehand what cutting every part of every matrix would say."""
    config, size = drawn
    check_shares(config, size)  # drawn so that it can
    key = data.draw(
        st.sampled_from(["intermediate_size", "moe_intermediate_size", "num_attention_heads"])
    )
    step = 1 if key == "num_attention_heads" else 64
    changed = replace(config, **{key: step * data.draw(st.integers(1, 8))})
    if changed.num_attention_heads * changed.v_head_dim % 64:
        return  # not stored in groups, on any number of machines
    model = Model(changed)  # lazy: shapes alone
    shapes = {name: value.shape for name, value in model.named_parameters().items()}
    possible = changed.num_attention_heads % size == 0
    for name, shape in shapes.items():
        if "o_proj" in name or "down_proj" in name:
            possible &= shape[-1] % size == 0 and (
                # A weight's words split finer than its groups; its scales do not.
                name.replace(".weight", ".scales") not in shapes
                or shapes[name.replace(".weight", ".scales")][-1] % size == 0
            )
    try:
        check_shares(changed, size)
    except PlanError:
        assert not possible
    else:
        assert possible


def test_a_refusal_comes_before_anything_is_loaded(tmp_path):
    """The folder holds a config alone, so that any look at a tensor would fail otherwise."""
    config = replace(WIDE, moe_intermediate_size=32)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))

    with pytest.raises(PlanError, match=r"experts\.down_proj"):
        load_share(tmp_path, mx.float32, Alone(2))


def test_a_matrix_that_arrives_otherwise_than_the_config_says_is_refused_too():
    share = Share(0, 4)
    with pytest.raises(PlanError, match=r"o_proj: got a matrix stored as \[8, 6\]"):
        share("model.layers.0.self_attn.o_proj", {"weight": mx.zeros((8, 6))})


# --- Loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bf16", "fp8", "int4", "k2mlx"])
def test_a_share_is_loaded_from_every_layout(tmp_path, form):
    if form == "k2mlx":
        save_model(tmp_path, wide_model(WIDE, 0))
        folder = tmp_path
    else:
        config = replace(
            WIDE,
            quantization=None,
            checkpoint_format="bf16",
            eos_token_id=(),
        )
        folder = official_slice(tmp_path, form, config=config)
    whole = load_model(folder, mx.float32)
    wanted = answers(whole, 2)

    def rank(group):
        model = load_share(folder, mx.float32, group)
        return answers(model, 2), bytes_of(model)

    for got, held in on_ranks(2, rank):
        assert worst(got, wanted) <= 1e-5
        assert held < 0.8 * bytes_of(whole)


def test_a_share_does_not_keep_the_whole_matrix_alive():
    for path in ("lm_head", "model.layers.1.mlp.experts.gate_up_proj", "x.self_attn.o_proj"):
        before = mx.get_active_memory()
        whole = mx.random.normal((4, 512, 512))
        mx.eval(whole)
        share = Share(0, 4)(path, {"weight": whole})["weight"]
        mx.eval(share)
        size = whole.nbytes
        del whole
        assert mx.get_active_memory() - before <= size / 4 + 4096, path


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_never_holds_the_whole_model(tmp_path, size):
    """Its share and, while it loads, one matrix; a few per cent for what is not weights."""
    sizes = {"n_routed_experts": 64, "hidden_size": 256, "moe_intermediate_size": 256}
    whole = wide_model(replace(WIDE, num_hidden_layers=4, **sizes), 0)
    largest = max(value.nbytes for value in whole.named_parameters().values())
    total = bytes_of(whole)
    save_model(tmp_path, whole)
    del whole
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_share(tmp_path, mx.float32, Alone(size))
    peak, active = mx.get_peak_memory() - before, mx.get_active_memory() - before
    assert bytes_of(model) < 1.1 * total / size
    assert active < 1.05 * bytes_of(model)
    assert peak < 1.05 * (bytes_of(model) + 1.25 * largest)  # with its scales and biases


@pytest.mark.parametrize("size", [2, 4])
def test_bfloat16_is_as_near_to_float32_as_on_one_machine(size):
    """With all experts chosen, as a near tie may fall either way in bfloat16."""
    config = replace(WIDE, num_experts_per_tok=WIDE.n_routed_experts)
    tokens = mx.array([list(range(40))])
    exact = np.array(wide_model(config, 0)(tokens))

    def half() -> Model:
        model = wide_model(config, 0)
        model.update(
            tree_map(
                lambda v: v if v.dtype == mx.uint32 else v.astype(mx.bfloat16), model.parameters()
            )
        )
        return model

    def error(model: Model) -> tuple[float, np.ndarray]:
        logits = np.array(model(tokens).astype(mx.float32))
        return float(np.sqrt(((logits - exact) ** 2).mean())), logits

    whole, _ = error(half())
    ranks = on_ranks(size, lambda group: error(shard(half(), group)))
    for mine, logits in ranks:
        assert mine < 1.3 * whole
        assert np.array_equal(logits, ranks[0][1])

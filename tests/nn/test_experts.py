"""Every way through the experts gives the same sum as one matrix after another."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.config import Quantization, QuantSpec
from k2mlx.nn import experts as module
from k2mlx.nn.experts import Experts
from k2mlx.nn.quant import ExpertLinear, QuantizedExpertLinear, quantize
from tests.folders import folder_config

GRID, AFFINE = QuantSpec(4, 32, "symmetric"), QuantSpec(8, 32)


def make(spec: QuantSpec | None, count: int, seed: int, dtype=mx.float32) -> Experts:
    mx.random.seed(seed)
    config = replace(folder_config(quantization=None), n_routed_experts=count)
    experts = Experts(config)
    for name in ("gate_up_proj", "down_proj") if spec else ():
        dense = getattr(experts, name).weight
        stored = QuantizedExpertLinear(dense.shape, spec)
        parts = quantize(dense, spec)
        stored.load_weights(
            [(k, v if k == "weight" else v.astype(dtype)) for k, v in parts.items()]
        )
        setattr(experts, name, stored)
    return experts


def one_by_one(experts: Experts, x, indices, weights) -> np.ndarray:
    """The definition, in float64."""
    dense = []
    for matrix in (experts.gate_up_proj, experts.down_proj):
        if isinstance(matrix, ExpertLinear):
            dense.append(np.array(matrix.weight, np.float64))
        else:
            how = {"group_size": matrix.spec.group_size, "bits": matrix.spec.bits}
            weight, *rest = matrix.parts
            wide = mx.dequantize(weight, *(r.astype(mx.float32) for r in rest), **how)
            dense.append(np.array(wide, np.float64))
    x, indices, weights = (np.array(v.astype(mx.float32)) for v in (x, indices, weights))
    out = np.zeros((x.shape[0], dense[1].shape[1]))
    for t, chosen in enumerate(indices.astype(int)):
        for e, w in zip(chosen, weights[t], strict=True):
            gate, up = np.split(dense[0][e] @ x[t].astype(np.float64), 2)
            out[t] += w * (dense[1][e] @ (gate / (1 + np.exp(-gate)) * up))
    return out


def inputs(tokens: int, hidden: int, count: int, k: int, seed: int, dtype=mx.float32):
    rng = np.random.default_rng(seed)
    x = mx.array(rng.standard_normal((tokens, hidden), np.float32)).astype(dtype)
    chosen = np.stack([rng.permutation(count)[:k] for _ in range(tokens)]).astype(np.uint32)
    return x, mx.array(chosen), mx.array(rng.random((tokens, k), np.float32))


@settings(max_examples=40)
@given(
    st.integers(1, 120),
    st.integers(4, 40),
    st.integers(1, 4),
    st.sampled_from([None, GRID, AFFINE]),
    st.sampled_from([1, 1 << 14, 1 << 30]),
    st.integers(0, 10_000),
)
def test_few_many_and_very_many_rows(tokens, count, k, spec, budget, seed):
    """Unsorted, sorted and expanded by groups of one, some or all experts."""
    experts = make(spec, count, seed)
    hidden = folder_config().hidden_size
    x, indices, weights = inputs(tokens, hidden, count, k, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "experts_at_once", lambda size: max(1, budget // size))
        got = np.array(experts(x, indices, weights))
    wanted = one_by_one(experts, x, indices, weights)
    assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("seed", range(8))
def test_the_padded_products_of_a_gpu(seed, monkeypatch):
    """On whatever device is here: the layout is for CUDA, the numbers are the same."""
    experts = make(GRID, 24, seed)
    x, indices, weights = inputs(90, folder_config().hidden_size, 24, 3, seed)
    wanted = np.array(experts(x, indices, weights))
    monkeypatch.setattr(module, "rows_to_expand", lambda: 0)
    monkeypatch.setattr(module, "pads", lambda: True)
    monkeypatch.setattr(module, "experts_at_once", lambda size: 1 + seed)
    got = np.array(experts(x, indices, weights))
    assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from([1.0, 1.5, 2.0, math.inf]),
)
def test_groups_cover_every_expert_with_rows_once(counts, most, padding):
    groups = module.expert_groups(counts, most, padding)
    covered = [e for start, stop in groups for e in range(start, stop)]
    assert covered == sorted(set(covered))
    assert {e for e, n in enumerate(counts) if n} <= set(covered)
    for start, stop in groups:
        rows = counts[start:stop]
        assert stop - start <= most
        assert len(rows) * max(rows) <= padding * sum(rows)


def test_expanding_holds_a_few_experts_at_a_time(monkeypatch):
    experts = make(GRID, 64, 1)
    hidden = folder_config().hidden_size
    x, indices, weights = inputs(400, hidden, 64, 4, 2)
    mx.eval(experts.parameters(), x, indices, weights)
    _, outputs, width = experts.gate_up_proj.shape
    size = outputs * width * 4  # of one expert's gate and up; down is half of that

    def extra(at_once: int) -> int:
        monkeypatch.setattr(module, "experts_at_once", lambda _: at_once)
        mx.synchronize()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(experts(x, indices, weights))
        return mx.get_peak_memory() - before

    few, all_of_them = extra(4), extra(64)
    assert all_of_them - few > 64 * size * 1.5 - 2 * 4 * size * 1.5 - size


def test_biases_follow_the_scales_and_are_no_parameters():
    stored = make(GRID, 4, 3).down_proj
    assert set(stored.parameters()) == {"weight", "scales"}
    assert mx.array_equal(stored.parts[2], stored.scales * -8).item()
    stored.scales = stored.scales * 2
    assert mx.array_equal(stored.parts[2], stored.scales * -8).item()
    assert stored.parts[2] is stored.parts[2]


def test_quantised_or_not_the_config_says(tmp_path):
    from k2mlx.model import Model

    spec = Quantization(experts=GRID)
    model = Model(folder_config(quantization=spec))
    assert isinstance(model.layers[-1].mlp.experts.down_proj, QuantizedExpertLinear)

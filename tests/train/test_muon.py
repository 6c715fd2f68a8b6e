"""Muon: what Newton-Schulz does to a matrix, and that every expert is its own."""

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.train import muon
from k2mlx.train.muon import newton_schulz, newton_schulz_plain, orthogonalize


def matrices(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(6, 8, 32), (3, 16, 40), (2, 32, 256), (4, 24, 24)])
def test_gram_form_equals_the_iteration_as_written(shape):
    x = matrices(*shape)
    assert mx.abs(newton_schulz(x) - newton_schulz_plain(x)).max().item() < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_gram_form_for_any_number_of_steps(steps):
    x = matrices(3, 8, 24)
    assert mx.allclose(newton_schulz(x, steps), newton_schulz_plain(x, steps), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layers.1.mlp.experts.gate_up_proj.weight", (12, 32, 64)),
        ("layers.1.mlp.experts.down_proj.weight", (12, 64, 16)),
        ("layers.1.self_attn.q_b_proj.weight", (96, 32)),
        ("layers.1.mlp.gate.weight", (16, 64)),
    ],
)
def test_singular_values_near_one_and_rms_near_a_fifth(name, shape):
    update = orthogonalize({name: matrices(*shape)})[name]
    assert update.shape == shape
    rows, columns = muon._matrix_shape(name, shape)
    per_matrix = np.array(update).reshape(-1, rows, columns) / (0.2 * max(rows, columns) ** 0.5)
    singular = np.linalg.svd(per_matrix, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.2
    # A matrix of min(n, m) singular values of one has this RMS times sqrt(max) 0.2.
    assert mx.sqrt(mx.square(update).mean()).item() == pytest.approx(0.2, rel=0.2)


def test_gate_and_up_are_two_matrices():
    name = "layers.1.mlp.experts.gate_up_proj.weight"
    x = matrices(4, 16, 32)
    together = orthogonalize({name: x})[name]
    up_grown = mx.concatenate([x[:, :8], 100 * x[:, 8:]], axis=1)
    assert mx.allclose(orthogonalize({name: up_grown})[name], together, atol=1e-3)


def test_batched_equals_one_by_one_across_layers_and_chunks(monkeypatch):
    values = {
        "layers.1.mlp.experts.gate_up_proj.weight": matrices(5, 16, 32, seed=1),
        "layers.1.mlp.experts.down_proj.weight": matrices(5, 32, 8, seed=2),
        "layers.2.mlp.experts.down_proj.weight": matrices(5, 32, 8, seed=3),
        "layers.0.mlp.up_proj.weight": matrices(8, 32, seed=4),
    }
    whole = orthogonalize(values)
    monkeypatch.setattr(muon, "CHUNK_BYTES", 3 * 4 * 8 * 32)
    chunked = orthogonalize(values)
    for name, value in values.items():
        assert mx.allclose(whole[name], chunked[name], atol=1e-6)
        assert mx.allclose(whole[name], orthogonalize({name: value})[name], atol=1e-6)
    one = values["layers.1.mlp.experts.down_proj.weight"][2]
    alone = orthogonalize({"w.weight": one})["w.weight"]
    assert mx.allclose(whole["layers.1.mlp.experts.down_proj.weight"][2], alone, atol=1e-6)


def test_experts_without_gradient_stay_finite():
    x = matrices(3, 8, 16)
    x[1] = 0
    update = newton_schulz(x)
    assert mx.all(mx.isfinite(update)).item()
    assert mx.all(update[1] == 0).item()

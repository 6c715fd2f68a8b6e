"""Our own kernels, on the GPU that is there; without one nothing here can run."""

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.config import QuantSpec
from k2mlx.nn import kernels
from k2mlx.nn.quant import k2_dequantize
from tests.nn.test_experts import AFFINE, GRID, inputs, make, one_by_one

gpu = pytest.mark.skipif(mx.default_device() == mx.cpu, reason="needs a GPU")


def check(tokens: int, count: int, k: int, seed: int) -> None:
    experts = make(GRID, count, seed, mx.bfloat16)
    hidden = experts.gate_up_proj.shape[-1]
    x, indices, weights = inputs(tokens, hidden, count, k, seed, mx.bfloat16)
    gate_up, down = experts.gate_up_proj, experts.down_proj
    a = kernels.gate_up(x, indices, gate_up.weight, gate_up.scales)
    got = kernels.down(a, indices, weights, down.weight, down.scales).astype(mx.float32)
    wanted = one_by_one(experts, x, indices, weights)
    expanded = kernels.expand(down.weight, down.scales)
    assert mx.array_equal(expanded, k2_dequantize(down.weight, down.scales, mx.bfloat16)).item()
    # Two roundings to bfloat16, of the inner activations and of the result.
    assert np.linalg.norm(np.array(got) - wanted) <= 5e-3 * np.linalg.norm(wanted)


@gpu
@pytest.mark.parametrize("seed", range(12))
def test_the_kernels_compute_the_experts(seed, monkeypatch):
    if mx.metal.is_available():
        pytest.skip("the Metal form has its own test")
    rng = np.random.default_rng(seed)
    check(int(rng.integers(1, 40)), int(rng.integers(4, 60)), int(rng.integers(1, 4)), seed)


@pytest.mark.metal
@pytest.mark.parametrize("seed", range(12))
def test_the_metal_kernels_compute_the_experts(seed, monkeypatch):
    if not mx.metal.is_available():
        pytest.skip("needs Apple silicon")
    monkeypatch.setenv("K2MLX_METAL_KERNELS", "1")
    rng = np.random.default_rng(seed)
    check(int(rng.integers(1, 40)), int(rng.integers(4, 60)), int(rng.integers(1, 4)), seed)


def test_what_they_do_not_take(monkeypatch):
    shape = (4, 64, 64)
    monkeypatch.setattr(kernels, "dialect", lambda: "cuda")
    assert kernels.usable(GRID, mx.bfloat16, shape)
    assert not kernels.usable(GRID, mx.float32, shape)
    assert not kernels.usable(AFFINE, mx.bfloat16, shape)
    assert not kernels.usable(QuantSpec(4, 32), mx.bfloat16, shape)
    assert not kernels.usable(GRID, mx.bfloat16, (4, 60, 64))
    monkeypatch.setattr(kernels, "dialect", lambda: None)
    assert not kernels.usable(GRID, mx.bfloat16, shape)


def test_no_kernel_on_a_cpu():
    if mx.default_device() != mx.cpu:
        pytest.skip("there is a GPU")
    assert kernels.dialect() is None

"""K2's INT4 grid: the spec's packing vectors, MLX's kernels on the same words, straight-through
gradients."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.config import QuantSpec
from k2mlx.errors import ConfigError
from k2mlx.nn import quant

K2 = QuantSpec(4, 32, "symmetric")


def random(seed, *shape, scale=1.0):
    return mx.random.normal(shape, scale=scale, key=mx.random.key(seed))


def decode_by_hand(packed, scales):
    """k2-spec 3.2: element i in bits 4 (i % 8) of word i // 8, value + 8, times its group's
    scale."""
    packed, scales = np.array(packed), np.array(scales.astype(mx.float32))
    out = np.zeros((*packed.shape[:-1], packed.shape[-1] * 8))
    for i in range(out.shape[-1]):
        value = (packed[..., i // 8] >> (4 * (i % 8))) & 15
        out[..., i] = (value.astype(np.int64) - 8) * scales[..., i // 32]
    return out


def test_packing_vectors_of_the_spec():
    codes = mx.array([list(range(-7, 1)) + list(range(8)) + [7] * 16], dtype=mx.float32)
    packed, scales = quant.k2_quantize(codes)
    assert scales.astype(mx.float32).item() == 1.0
    assert packed[0, :2].tolist() == [0x87654321, 0xFEDCBA98]
    minus8 = mx.array([[0x76543210, 0xFEDCBA98, 0, 0]], dtype=mx.uint32)
    decoded = quant.k2_dequantize(minus8, mx.array([[1.0]]))
    assert decoded[0, :16].tolist() == [float(v) for v in range(-8, 8)]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(1e-7, 1e3), st.integers(1, 5), st.integers(1, 4))
def test_the_grid(seed, scale, rows, groups):
    w = random(seed, 2, rows, 32 * groups, scale=scale)
    packed, scales = quant.k2_quantize(w)
    back = quant.k2_dequantize(packed, scales)
    np.testing.assert_allclose(np.array(back), decode_by_hand(packed, scales), rtol=1e-6)
    again, same = quant.k2_quantize(back)  # rounding what is rounded changes nothing
    half = np.repeat(np.array(scales.astype(mx.float32)), 32, axis=-1)
    assert (np.abs(np.array(w - back)) <= half * 0.5 + half * 7 * 2**-8).all()
    assert mx.abs(quant.k2_dequantize(again, same) - back).max().item() <= 1e-2 * half.max()


def test_mlx_kernels_read_the_same_words():
    w = random(1, 5, 24, 64)
    parts = quant.quantize(w, K2)
    exact = quant.k2_dequantize(parts["weight"], parts["scales"])
    x, indices = random(2, 6, 1, 64), mx.array([0, 4, 2, 2, 1, 3])
    scales = parts["scales"].astype(mx.float32)
    as_mlx = [parts["weight"], scales, quant.symmetric_biases(scales)]
    got = mx.gather_qmm(x, *as_mlx, rhs_indices=indices, transpose=True, group_size=32, bits=4)
    wanted = x @ exact[indices].swapaxes(-1, -2)
    assert mx.abs(got - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


@pytest.mark.parametrize("spec", [K2, QuantSpec(4, 32), QuantSpec(8, 64), QuantSpec(3, 32)])
@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_quantised_matrices_multiply_as_their_expansion(spec, rows):
    layer = quant.QuantizedLinear((48, 128), spec)
    parts = quant.quantize(random(3, 48, 128), spec)
    layer.load_weights(
        [(k, v if k == "weight" else v.astype(mx.float32)) for k, v in parts.items()]
    )
    w = mx.dequantize(*layer.parts, group_size=spec.group_size, bits=spec.bits)
    x = random(4, 2, rows, 128)
    wanted = x @ w.T
    assert mx.abs(layer(x) - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 64, 200])
def test_experts_in_any_order(tokens):
    """Few pairs go unsorted, many sorted, very many through expanded matrices: all the same
    numbers."""
    experts, inputs, outputs, k = 12, 64, 32, 8
    layer = quant.QuantizedExpertLinear((experts, outputs, inputs), K2)
    parts = quant.quantize(random(5, experts, outputs, inputs), K2)
    layer.load_weights(
        [(n, v if n == "weight" else v.astype(mx.float32)) for n, v in parts.items()]
    )
    w = quant.k2_dequantize(parts["weight"], parts["scales"])
    x, indices = random(6, tokens, inputs), mx.random.randint(0, experts, (tokens, k))
    wanted = mx.einsum("ti,tkoi->tko", x, w[indices])
    got = layer(x[:, None, None], indices, in_order=False).squeeze(-2)
    assert mx.abs(got - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()
    flat = indices.flatten()
    order = mx.argsort(flat)
    in_order = layer(x[order // k][:, None], flat[order], in_order=True).squeeze(-2)
    back = in_order[mx.argsort(order)].reshape(got.shape)
    assert mx.abs(back - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


@pytest.mark.parametrize("spec", [K2, QuantSpec(8, 32), QuantSpec(4, 32)])
def test_fake_quantize_is_what_is_stored_and_passes_gradients(spec):
    w = random(7, 3, 16, 64) if spec is K2 else random(7, 16, 64)
    parts = quant.quantize(w, spec)
    scales = parts["scales"]
    biases = parts.get("biases", quant.symmetric_biases(scales)).astype(mx.float32)
    scales = scales.astype(mx.float32)
    how = {"group_size": spec.group_size, "bits": spec.bits}
    stored = mx.dequantize(parts["weight"], scales, biases, **how)
    assert mx.abs(quant.fake_quantize(w, spec) - stored).max().item() <= 1e-6
    target = random(8, *w.shape)
    gradient = mx.grad(lambda v: (quant.fake_quantize(v, spec) * target).sum())(w)
    assert mx.array_equal(gradient, target).item()


def test_a_width_that_does_not_fit_the_groups_is_refused():
    with pytest.raises(ConfigError, match="48 inputs, wanted a multiple of group_size = 32"):
        quant.QuantizedLinear((8, 48), K2)

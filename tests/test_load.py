"""Loading whole folders: on the CPU the small matrices are expanded, and compute the same."""

import mlx.core as mx
import pytest

from k2mlx.load import load
from k2mlx.nn.quant import QuantizedExpertLinear, QuantizedLinear

TOKENS = mx.array([[5, 300, 41, 8000, 77, 1, 2, 3]])


@pytest.fixture(scope="module")
def both():
    return load("models/k2-nano"), load("models/k2-nano", as_stored=True)


def kinds(model) -> set[type]:
    return {type(module) for _, module in model.named_modules()}


def test_what_is_expanded(both):
    expanded, stored = (kinds(loaded.model) for loaded in both)
    assert {QuantizedLinear, QuantizedExpertLinear} <= stored
    assert QuantizedExpertLinear in expanded
    if mx.default_device() == mx.cpu:
        assert QuantizedLinear not in expanded


def test_expanded_and_stored_models_compute_the_same(both):
    a, b = (loaded.model for loaded in both)
    caches = a.make_cache(), b.make_cache()
    for part in (TOKENS[:, :5], TOKENS[:, 5:6], TOKENS[:, 6:]):  # many rows, one, two
        x, y = a(part, caches[0]), b(part, caches[1])
        assert mx.abs(x - y).max().item() <= 1e-4 * mx.abs(y).max().item()


def test_bytes_are_those_of_the_files(both):
    assert both[0].bytes == sum(f.stat().st_size for f in both[0].path.glob("*.safetensors"))

"""YaRN against the values printed in k2-spec 2."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.config import ModelConfig, RopeScaling
from k2mlx.home import find_model
from k2mlx.nn.rope import YarnRope, get_mscale, inverse_frequencies, softmax_scale
from tests.models import TINY
from tests.reference import k2

PAIRS = [0, 8, 9, 14, 19, 20, 31]
SPEC = {
    (32, 1): [
        1.0,
        6.68740305e-2,
        4.76886124e-2,
        8.79428677e-3,
        1.62175991e-3,
        3.61404677e-5,
        8.76441291e-7,
    ],
    (64, 1): [
        1.0,
        6.68740305e-2,
        4.76886124e-2,
        8.79428677e-3,
        1.62175991e-3,
        1.80702339e-5,
        4.38220646e-7,
    ],
    (64, 32): [
        1.0,
        6.68740305e-2,
        4.37766560e-2,
        4.46584875e-3,
        1.58374991e-4,
        1.80702339e-5,
        4.38220646e-7,
    ],
}


@pytest.mark.parametrize(("factor", "beta_fast"), SPEC)
def test_inverse_frequencies(factor, beta_fast):
    scaling = RopeScaling(factor, 4096, beta_fast, 1.0, 1.0, 1.0)
    got = inverse_frequencies(64, 50000.0, scaling)
    np.testing.assert_allclose([got[i] for i in PAIRS], SPEC[factor, beta_fast], rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "scale"), [("kimi-k2-instruct", 0.1308608), ("kimi-k2-thinking", 0.1446796)]
)
def test_softmax_scale(name, scale):
    config = ModelConfig.load(find_model(name))
    assert softmax_scale(config) == pytest.approx(scale, rel=1e-6)
    assert YarnRope(config).mscale == 1.0


def test_mscale():
    assert get_mscale(32, 1.0) == pytest.approx(1.3465736, rel=1e-7)
    assert get_mscale(64, 1.0) == pytest.approx(1.4158883, rel=1e-7)
    assert get_mscale(0.5, 1.0) == 1.0


@pytest.mark.parametrize("offset", [0, 5, 1000])
def test_rotation_is_of_interleaved_pairs(offset):
    config = replace(TINY, rope_scaling=RopeScaling(4, 64, 32, 1, 0.707, 1.0))
    x = np.random.default_rng(0).standard_normal((7, config.qk_rope_head_dim))
    rope = YarnRope(config)
    got = np.array(rope(mx.array(x, dtype=mx.float32)[None, None], offset))[0, 0]
    inv_freq = k2.yarn_inverse_frequencies(config)
    wanted = [k2.rotate(row, offset + t, inv_freq, rope.mscale) for t, row in enumerate(x)]
    np.testing.assert_allclose(got, wanted, atol=3e-4 if offset == 1000 else 1e-5)

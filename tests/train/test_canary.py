"""The batched form of the experts equals the gathered one; a device that computes them wrongly
stops a run before it starts."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import K2Error
from k2mlx.nn.moe import Experts
from k2mlx.train.canary import check_experts, expert_errors
from tests.folders import folder_config


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(64, 150),
    crowded=st.booleans(),
    capacity=st.sampled_from([0.3, 1.0, 2.5, 100.0]),
)
def test_batched_experts_equal_gathered_ones_but_for_what_is_over_capacity(
    seed, tokens, crowded, capacity
):
    config = folder_config(quantization=None)
    rng = np.random.default_rng(seed)
    experts, count, chosen = Experts(config), config.n_routed_experts, config.num_experts_per_tok
    scores = rng.random((tokens, count)) + (np.arange(count) < chosen) * crowded
    indices = np.argsort(-scores, axis=1)[:, :chosen].astype(np.uint32)
    x = mx.array(rng.standard_normal((tokens, config.hidden_size), np.float32))
    wanted = np.array(experts(x, mx.array(indices)))
    experts.capacity = capacity
    got = np.array(experts(x, mx.array(indices)))
    rows = int(np.ceil(capacity * indices.size / count))
    kept = np.zeros(indices.shape, bool)
    for expert in range(count):
        first = np.flatnonzero(indices.ravel() == expert)[:rows]
        kept.ravel()[first] = True
    np.testing.assert_allclose(got, wanted * kept[..., None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("capacity", [None, 8.0])
def test_this_device_computes_what_experts_are_trained_with(capacity):
    errors = expert_errors(folder_config(), mx.float32, 200, capacity)
    assert len(errors) == 4 and max(errors.values()) < 1e-5


def test_a_device_that_leaves_the_experts_out_is_found(monkeypatch):
    right = Experts.__call__
    monkeypatch.setattr(Experts, "__call__", lambda self, x, i: right(self, x, i) * 0)
    with pytest.raises(K2Error, match=r"output computed on .* is off by 100.0%.*expert_capacity"):
        check_experts(folder_config(), mx.float32, 200)


def test_wrong_gradients_are_found(monkeypatch):
    right = Experts.__call__
    stopped = lambda self, x, i: right(self, mx.stop_gradient(x), i)  # noqa: E731
    monkeypatch.setattr(Experts, "__call__", stopped)
    with pytest.raises(K2Error, match="gradient of the input"):
        check_experts(folder_config(), mx.float32, 200)

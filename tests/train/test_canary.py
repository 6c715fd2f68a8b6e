"""A device that computes the experts wrongly stops a run before it starts."""

import mlx.core as mx
import pytest

from k2mlx.errors import K2Error
from k2mlx.nn.experts import Experts
from k2mlx.train.canary import check_experts, expert_errors
from tests.folders import folder_config


def test_this_device_computes_what_experts_are_trained_with():
    errors = expert_errors(folder_config(), mx.float32, 200)
    assert len(errors) == 4 and max(errors.values()) < 1e-5


def test_a_device_that_leaves_the_experts_out_is_found(monkeypatch):
    right = Experts.outputs
    monkeypatch.setattr(Experts, "outputs", lambda self, x, i: right(self, x, i) * 0)
    with pytest.raises(K2Error, match=r"output computed on .* is off by 100.0%"):
        check_experts(folder_config(), mx.float32, 200)


def test_wrong_gradients_are_found(monkeypatch):
    right = Experts.outputs
    stopped = lambda self, x, i: right(self, mx.stop_gradient(x), i)  # noqa: E731
    monkeypatch.setattr(Experts, "outputs", stopped)
    with pytest.raises(K2Error, match="gradient of the input"):
        check_experts(folder_config(), mx.float32, 200)


def test_rows_that_a_sorted_gather_gets_stand_one_after_another(monkeypatch):
    """By its code, MLX 0.32.4 on CUDA takes the axis of length 1 for the stride of the rows."""
    strides = []
    right = mx.gather_mm

    def watched(a, b, **options):
        mx.eval(a)
        strides.append(memoryview(a).strides)
        return right(a, b, **options)

    monkeypatch.setattr(mx, "gather_mm", watched)
    config = folder_config(quantization=None)
    chosen = mx.broadcast_to(mx.arange(config.num_experts_per_tok), (70, 4)).astype(mx.uint32)
    Experts(config).outputs(mx.random.normal((70, config.hidden_size)), chosen)
    sizes = (config.hidden_size, config.moe_intermediate_size)
    assert strides == [(size * 4, size * 4, 4) for size in sizes]

"""The optimiser around Muon, the clip, the router's balance and the schedule."""

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.train.balance import move_biases
from k2mlx.train.optimizer import (
    OptimizerConfig,
    apply_gradients,
    clip_gradients,
    init_state,
    uses_muon,
)
from k2mlx.train.schedule import learning_rate, progress

MATRIX = "model.layers.0.self_attn.o_proj.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def parameters() -> dict[str, mx.array]:
    r = np.random.default_rng(0)
    shapes = {MATRIX: (8, 16), NORM: (8,), HEAD: (12, 8), "model.embed_tokens.weight": (12, 8)}
    return {n: mx.array(r.standard_normal(s).astype(np.float32)) for n, s in shapes.items()}


def step(config, params, grads, state=None, lr=0.1):
    return apply_gradients(config, params, grads, state or init_state(config, params), mx.array(lr))


def test_matrices_to_muon_the_rest_to_adamw():
    config, params = OptimizerConfig(), parameters()
    assert [n for n, v in params.items() if uses_muon(config, n, v)] == [MATRIX]
    gate = "model.layers.1.mlp.gate.weight"
    assert uses_muon(config, gate, mx.zeros((4, 8)))
    assert not any(uses_muon(OptimizerConfig(kind="adamw"), n, v) for n, v in params.items())


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_decay_is_decoupled(kind):
    """Without gradient a parameter shrinks by lr wd exactly, whatever its size."""
    config = OptimizerConfig(kind=kind, weight_decay=0.1)
    params = parameters()
    new, _ = step(config, params, {n: mx.zeros(v.shape) for n, v in params.items()})
    for name, value in params.items():
        assert mx.allclose(new[name], value * 0.99, rtol=1e-6)


def test_adamw_equals_its_definition():
    config = OptimizerConfig(kind="adamw", weight_decay=0.1, adam_scale=0.5)
    r = np.random.default_rng(1)
    p = r.standard_normal(6).astype(np.float32)
    params, state = {NORM: mx.array(p)}, None
    m = v = np.zeros(6)
    for t in range(1, 4):
        g = r.standard_normal(6).astype(np.float32)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        p = p * (1 - 0.05 * 0.1) - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        params, state = step(config, params, {NORM: mx.array(g)}, state)
    np.testing.assert_allclose(np.array(params[NORM]), p, rtol=1e-5)


def test_muon_does_not_see_the_gradients_scale():
    config, params = OptimizerConfig(weight_decay=0.0), parameters()
    grads = parameters()
    a, _ = step(config, params, grads)
    b, _ = step(config, params, {n: g * 1e-3 for n, g in grads.items()})
    assert mx.allclose(a[MATRIX], b[MATRIX], atol=1e-5)


def test_clip_bounds_the_joint_norm_and_leaves_small_gradients():
    grads = {"a": mx.array([3.0, 0.0]), "b": mx.array([[4.0]])}
    clipped, norm = clip_gradients(grads, 1.0)
    assert norm.item() == 5.0
    assert clipped["a"][0].item() == pytest.approx(0.6, rel=1e-5)
    same, _ = clip_gradients(grads, 10.0)
    assert same["b"].item() == 4.0


def test_a_gradient_that_is_not_finite_changes_nothing_but_its_norm():
    clipped, norm = clip_gradients({"a": mx.array([1.0, float("nan")])}, 1.0)
    assert not np.isfinite(norm.item())
    assert clipped["a"].tolist() == [0.0, 0.0]


def test_biases_move_towards_idle_experts():
    biases = {"l1": mx.zeros(4), "l2": mx.array([0.5, 0.0, 0.0, 0.0])}
    loads = mx.array([[10.0, 2.0, 4.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    moved = move_biases(biases, loads, mx.array(0.01))
    assert moved["l1"][0].item() < 0 < moved["l1"][1].item()
    assert moved["l1"].mean().item() == pytest.approx(0, abs=1e-7)
    assert moved["l2"].tolist() == [0.5, 0.0, 0.0, 0.0]
    still = move_biases(biases, loads, mx.array(0.0))
    assert mx.array_equal(still["l1"], biases["l1"])


def test_schedule_warms_up_stays_and_falls_to_the_floor():
    def rate(step, done):
        return learning_rate(step, done, peak=2.0, warmup=10, decay_from=0.5, floor=0.1)

    assert rate(0, 0.0) == pytest.approx(0.2)
    assert rate(9, 0.01) == rate(50, 0.5) == 2.0
    assert rate(75, 0.75) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rate(100, 1.0) == pytest.approx(0.2)
    assert learning_rate(5, 0.9, peak=2.0, warmup=0, decay_from=1.0, floor=0.0) == 2.0


def test_progress_is_the_clock_or_the_steps_whichever_is_further():
    assert progress(50, 0.0, 100, None) == 0.5
    assert progress(50, 45.0, 100, 1.0) == 0.75
    assert progress(3, 90.0, None, 1.0) == 1.0

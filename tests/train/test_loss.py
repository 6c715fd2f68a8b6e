"""The loss of packed rows, and gradients through the stored grid."""

from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from k2mlx.model import Model
from k2mlx.nn.quant import k2_dequantize, k2_quantize
from k2mlx.train.loss import weighted_loss
from k2mlx.train.optimizer import OptimizerConfig, init_state
from k2mlx.train.qat import compute_weights
from k2mlx.train.step import TrainStep, split_parameters
from tests.folders import folder_config

CONFIG = folder_config(
    vocab_size=64,
    hidden_size=32,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    n_routed_experts=8,
    num_experts_per_tok=2,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
    max_position_embeddings=128,
    initializer_range=0.1,
)


def make_step(chunk: int = 0) -> tuple[TrainStep, dict, dict]:
    model = Model(replace(CONFIG, quantization=None))
    model.reset(0)
    step = TrainStep(model, OptimizerConfig(), mx.float32, CONFIG, chunk)
    return step, *split_parameters(model)


def make_batch(rows: int, seed: int = 0, length: int = 12) -> dict[str, mx.array]:
    r = np.random.default_rng(seed)
    segments = np.sort(r.integers(0, 3, (rows, length + 1)), axis=1)
    return {
        "tokens": mx.array(r.integers(0, 64, (rows, length + 1)).astype(np.int32)),
        "segments": mx.array(segments.astype(np.int32)),
        "loss": mx.array((r.random((rows, length)) < 0.7).astype(np.float32)),
    }


def difference(a: dict[str, mx.array], b: dict[str, mx.array]) -> float:
    assert a.keys() == b.keys()
    return max((mx.abs(a[n] - b[n]).max() / (mx.abs(b[n]).max() + 1e-12)).item() for n in a)


@pytest.mark.parametrize("chunk", [0, 5, 16, 100])
def test_loss_and_its_gradients_equal_the_plain_ones_in_any_chunks(chunk):
    r = np.random.default_rng(0)
    hidden = mx.array(r.standard_normal((23, 8)).astype(np.float32))
    head = mx.array(r.standard_normal((11, 8)).astype(np.float32))
    targets = mx.array(r.integers(0, 11, 23))
    weights = mx.array(r.random(23).astype(np.float32))

    def plain(h, w):
        return (nn.losses.cross_entropy(h @ w.T, targets) * weights).sum()

    def ours(h, w):
        return weighted_loss(h, w, targets, weights, chunk)

    want, want_grads = mx.value_and_grad(plain, argnums=(0, 1))(hidden, head)
    got, grads = mx.value_and_grad(ours, argnums=(0, 1))(hidden, head)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for g, w in zip(grads, want_grads, strict=True):
        assert mx.allclose(g, w, atol=1e-5)


def test_the_loss_of_a_batch_is_that_of_the_model():
    step, params, biases = make_step()
    batch = make_batch(3)
    batch["segments"] = mx.zeros_like(batch["segments"])
    total, loads, _ = step.gradients(params, biases, batch)
    step.set_weights(params, biases)
    logits = step.model(batch["tokens"][:, :-1])
    losses = nn.losses.cross_entropy(logits, batch["tokens"][:, 1:])
    assert total.item() == pytest.approx((losses * batch["loss"]).sum().item(), rel=1e-5)
    assert loads.shape == (1, 8)
    assert loads.sum().item() == 3 * 12 * 2


def test_any_micro_batching_gives_the_same_gradients():
    """Also with rows that have unlike numbers of supervised tokens."""
    step, params, biases = make_step()
    batch = make_batch(4)
    batch["loss"][0] = 0
    whole_loss, whole_loads, whole = step.gradients(params, biases, batch)
    for cuts in ([0, 1, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        loss, loads, grads = mx.array(0.0), mx.array(0.0), {}
        for start, stop in pairwise(cuts):
            part = step.gradients(params, biases, {k: v[start:stop] for k, v in batch.items()})
            loss, loads = loss + part[0], loads + part[1]
            grads = {n: grads[n] + g for n, g in part[2].items()} if grads else part[2]
        assert loss.item() == pytest.approx(whole_loss.item(), rel=1e-6)
        assert mx.array_equal(loads, whole_loads)
        assert difference(grads, whole) < 1e-5


def test_tokens_after_the_last_supervised_one_and_other_segments_have_no_influence():
    step, params, biases = make_step()
    batch = make_batch(1)
    batch["segments"] = mx.array([[0] * 6 + [1] * 7], dtype=mx.int32)
    batch["loss"] = mx.array([[0.0] * 7 + [1.0] * 3 + [0.0] * 2])
    _, _, want = step.gradients(params, biases, batch)
    tokens = batch["tokens"]
    tokens = mx.concatenate([(tokens[:, :6] + 7) % 64, tokens[:, 6:11], tokens[:, 11:] * 0], axis=1)
    _, _, got = step.gradients(params, biases, batch | {"tokens": tokens.astype(mx.int32)})
    assert difference(got, want) < 1e-5


def test_without_supervised_tokens_nothing_has_a_gradient():
    step, params, biases = make_step()
    batch = make_batch(2)
    total, _, grads = step.gradients(params, biases, batch | {"loss": batch["loss"] * 0})
    assert total.item() == 0
    assert all(mx.all(g == 0).item() for g in grads.values())


def test_qat_sees_what_will_be_stored_and_keeps_the_router_and_norms():
    _, params, _ = make_step()
    weights = compute_weights(params, mx.float32, CONFIG)
    experts = "model.layers.1.mlp.experts.down_proj.weight"
    assert mx.allclose(weights[experts], k2_dequantize(*k2_quantize(params[experts])), atol=1e-7)
    for name in ("model.layers.1.mlp.gate.weight", "model.norm.weight"):
        assert mx.array_equal(weights[name], params[name])
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_a_proj.weight"):
        assert 0 < mx.abs(weights[name] - params[name]).max().item() < 0.05


def test_qat_gradients_go_straight_through():
    """They equal the gradients of a model whose float weights are the rounded ones."""
    step, params, biases = make_step()
    batch = make_batch(2)
    loss, _, grads = step.gradients(params, biases, batch, True)
    rounded = compute_weights(params, mx.float32, CONFIG)
    want, _, want_grads = step.gradients(rounded, biases, batch)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert difference(grads, want_grads) < 1e-4


def test_half_precision_keeps_router_and_embedding_in_float32():
    _, params, _ = make_step()
    weights = compute_weights(params, mx.bfloat16)
    kept = {n for n, v in weights.items() if v.dtype == mx.float32}
    assert kept == {"model.embed_tokens.weight", "model.layers.1.mlp.gate.weight"}


def test_twenty_steps_lower_the_loss_and_balance_the_experts():
    step, params, biases = make_step()
    state = init_state(step.optimizer, params)
    batch = make_batch(4)
    losses, peaks = [], []
    for _ in range(20):
        loss, loads, grads = step.gradients(params, biases, batch)
        weight = batch["loss"].sum()
        params, biases, state, norm = step.update(
            params, biases, state, grads, loads, weight, mx.array(0.02), mx.array(0.02)
        )
        mx.eval(params, biases, state)
        losses.append((loss / weight).item())
        peaks.append((loads.max() / loads.mean()).item())
        assert np.isfinite(norm.item())
    assert losses[-1] < 0.5 * losses[0]
    assert min(peaks[-5:]) < max(peaks[:5])

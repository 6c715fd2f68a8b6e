"""Before a run: does this device compute what the routed experts are trained with?

A wrong kernel does not stop a run, nor spoil its loss by much: the rest of the model learns to do
without the experts, and only another device finds out. k2-nano's first runs went that way (see
Experts in nn/moe.py).
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..config import ModelConfig
from ..errors import K2Error
from ..nn.moe import Experts

TOLERANCE = {mx.float32: 1e-3, mx.bfloat16: 3e-2}
# On the CPU the check is for the code alone; on a GPU the kernel may depend on the size.
MOST_ON_CPU = 256


def check_experts(config: ModelConfig, dtype: mx.Dtype, tokens: int) -> None:
    """Compare output and gradients of one layer's experts for `tokens` rows with float32 products,
    expert by expert. Raises K2Error where they are further apart than rounding explains."""
    for name, error in expert_errors(config, dtype, tokens).items():
        if not error <= TOLERANCE[dtype]:
            raise K2Error(
                f"routed experts: the {name} computed on {mx.default_device()} for {tokens} tokens"
                f" is off by {error:.1%}, wanted at most {TOLERANCE[dtype]:.1%}: they would not be"
                " trained; train on another device"
            )


def expert_errors(config: ModelConfig, dtype: mx.Dtype, tokens: int) -> dict[str, float]:
    """|got - wanted| / |wanted| of "output", "gradient of the input" and of both matrices."""
    if mx.default_device() == mx.cpu:
        tokens = min(tokens, MOST_ON_CPU)
    experts = Experts(replace(config, quantization=None))
    experts.set_dtype(dtype)
    rng = np.random.default_rng(1)
    count, width = config.n_routed_experts, config.moe_intermediate_size
    chosen = _choices(rng, tokens, count, config.num_experts_per_tok)
    x = mx.array(rng.standard_normal((tokens, config.hidden_size), np.float32)).astype(dtype)
    wanted_in = mx.array(rng.standard_normal((*chosen.shape, config.hidden_size), np.float32))

    def loss(parameters: dict, x: mx.array) -> tuple[mx.array, mx.array]:
        experts.update(parameters)
        y = experts(x, mx.array(chosen)).astype(mx.float32)
        return (y * wanted_in).sum(), y

    run = mx.compile(mx.value_and_grad(loss, argnums=(0, 1)))
    parameters = experts.parameters()
    (_, y), (grads, dx) = run(parameters, x)
    got = {
        "output": y,
        "gradient of the input": dx,
        "gradient of gate_up_proj": grads["gate_up_proj"]["weight"],
        "gradient of down_proj": grads["down_proj"]["weight"],
    }
    gate_up = parameters["gate_up_proj"]["weight"].astype(mx.float32)
    down = parameters["down_proj"]["weight"].astype(mx.float32)
    rows = mx.broadcast_to(x.astype(mx.float32)[:, None], wanted_in.shape)

    def expert(gate_up: mx.array, down: mx.array, x: mx.array, r: mx.array) -> tuple:
        gate, up = mx.split(x @ gate_up.T, [width], axis=-1)
        y = (gate * mx.sigmoid(gate) * up) @ down.T
        return (y * r).sum(), y

    reference = mx.value_and_grad(expert, argnums=(0, 1, 2))
    differences = dict.fromkeys(got, 0.0)
    sizes = dict.fromkeys(got, 0.0)
    dx_wanted = mx.zeros(x.shape)
    for e in range(count):
        where = [mx.array(axis) for axis in np.nonzero(chosen == e)]
        if not where[0].size:
            continue
        mine = (gate_up[e], down[e], rows[where[0], where[1]], wanted_in[where[0], where[1]])
        (_, y_e), (d_gate_up, d_down, d_x) = reference(*mine)
        dx_wanted = dx_wanted.at[where[0]].add(d_x)
        for name, have, want in (
            ("output", y[where[0], where[1]], y_e),
            ("gradient of gate_up_proj", got["gradient of gate_up_proj"][e], d_gate_up),
            ("gradient of down_proj", got["gradient of down_proj"][e], d_down),
        ):
            differences[name] += float(mx.square(have.astype(mx.float32) - want).sum())
            sizes[name] += float(mx.square(want).sum())
    name = "gradient of the input"
    differences[name] = float(mx.square(dx.astype(mx.float32) - dx_wanted).sum())
    sizes[name] = float(mx.square(dx_wanted).sum())
    return {name: (differences[name] / sizes[name]) ** 0.5 for name in got}


def _choices(rng: np.random.Generator, tokens: int, experts: int, chosen: int) -> np.ndarray:
    """[tokens, chosen]: different experts a token, half of the tokens choosing among few, as an
    untrained router would have it."""
    among = np.full(tokens, experts)
    among[::2] = min(experts, 2 * chosen)
    scores = rng.random((tokens, experts), dtype=np.float32)
    scores[np.arange(experts) >= among[:, None]] = -1
    return np.argpartition(-scores, chosen - 1, axis=1)[:, :chosen].astype(np.uint32)

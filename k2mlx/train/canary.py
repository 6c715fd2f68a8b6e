"""Before a run: does this device compute what the routed experts are trained with?

A wrong kernel does not stop a run, nor spoil its loss by much: the rest of the model learns to do
without the experts, and only another device finds out. k2-nano's first runs went that way (see
Experts in nn/experts.py).
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..config import ModelConfig
from ..errors import K2Error
from ..nn.experts import Experts

TOLERANCE = {mx.float32: 1e-3, mx.bfloat16: 3e-2}
# On the CPU the check is for the code alone; on a GPU the kernel may depend on the size.
MOST_ON_CPU = 256
COMPARED = (
    "output",
    "gradient of the input",
    "gradient of gate_up_proj",
    "gradient of down_proj",
)


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
    """|got - wanted| / |wanted| of each of COMPARED."""
    if mx.default_device() == mx.cpu:
        tokens = min(tokens, MOST_ON_CPU)
    experts = Experts(replace(config, quantization=None))
    experts.set_dtype(dtype)
    rng = np.random.default_rng(1)
    count, width = config.n_routed_experts, config.moe_intermediate_size
    chosen = _choices(rng, tokens, count, config.num_experts_per_tok)
    x = mx.array(rng.standard_normal((tokens, config.hidden_size), np.float32)).astype(dtype)
    dy = mx.array(rng.standard_normal((*chosen.shape, config.hidden_size), np.float32))

    def loss(parameters: dict, x: mx.array) -> tuple[mx.array, mx.array]:
        experts.update(parameters)
        y = experts.outputs(x, mx.array(chosen)).astype(mx.float32)
        return (y * dy).sum(), y

    parameters = experts.parameters()
    (_, y), (grads, dx) = mx.compile(mx.value_and_grad(loss, argnums=(0, 1)))(parameters, x)
    got = [y, dx, grads["gate_up_proj"]["weight"], grads["down_proj"]["weight"]]

    def expert(
        x: mx.array, gate_up: mx.array, down: mx.array, dy: mx.array
    ) -> tuple[mx.array, mx.array]:
        gate, up = mx.split(x @ gate_up.T, [width], axis=-1)
        y = (gate * mx.sigmoid(gate) * up) @ down.T
        return (y * dy).sum(), y

    reference = mx.value_and_grad(expert, argnums=(0, 1, 2))
    gate_up = parameters["gate_up_proj"]["weight"].astype(mx.float32)
    down = parameters["down_proj"]["weight"].astype(mx.float32)
    wanted = [mx.zeros(value.shape) for value in (y, x, gate_up, down)]
    for e in range(count):
        token, place = (mx.array(axis) for axis in np.nonzero(chosen == e))
        if not token.size:
            continue
        rows = x[token].astype(mx.float32)
        (_, y_e), (dx_e, *dw_e) = reference(rows, gate_up[e], down[e], dy[token, place])
        wanted[0][token, place] = y_e
        wanted[1] = wanted[1].at[token].add(dx_e)
        for matrix, value in zip(wanted[2:], dw_e, strict=True):
            matrix[e] = value
    return {
        name: float(mx.linalg.norm(have.astype(mx.float32) - want) / mx.linalg.norm(want))
        for name, have, want in zip(COMPARED, got, wanted, strict=True)
    }


def _choices(rng: np.random.Generator, tokens: int, experts: int, chosen: int) -> np.ndarray:
    """[tokens, chosen]: different experts a token, half of the tokens choosing among few, as an
    untrained router would have it."""
    among = np.full(tokens, experts)
    among[::2] = min(experts, 2 * chosen)
    scores = rng.random((tokens, experts), dtype=np.float32)
    scores[np.arange(experts) >= among[:, None]] = -1
    return np.argpartition(-scores, chosen - 1, axis=1)[:, :chosen].astype(np.uint32)

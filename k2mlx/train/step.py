"""One optimiser step as two compiled functions: gradients of a micro-batch, and the update.

Both are pure functions of arrays: everything that changes from step to step (learning rate, router
rate, token count) is an array, so each compiles once for each shape of batch. MLX_DISABLE_COMPILE=1
runs them uncompiled. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..config import ModelConfig
from ..model import Model
from .balance import move_biases
from .loss import weighted_loss
from .optimizer import Arrays, OptimizerConfig, apply_gradients, clip_gradients
from .qat import compute_weights

BIAS = "e_score_correction_bias"


def split_parameters(model: Model) -> tuple[Arrays, Arrays]:
    """The model's arrays by name: those that gradients train, in float32, and the routers'
    correction biases in layer order."""
    named = model.named_parameters()
    params = {n: v.astype(mx.float32) for n, v in named.items() if not n.endswith(BIAS)}
    names = (f"model.layers.{i}.mlp.gate.{BIAS}" for i in range(len(model.layers)))
    return params, {n: named[n].astype(mx.float32) for n in names if n in named}


class TrainStep:
    """The step of one model; `model` lends its computation, the weights are always passed in.

    After a call the model holds the traced arrays of a compiled function: give it weights
    (`set_weights`) before using it otherwise.
    """

    def __init__(
        self,
        model: Model,
        optimizer: OptimizerConfig,
        dtype: mx.Dtype,
        stored_as: ModelConfig | None = None,
        loss_chunk: int = 0,
    ):
        """stored_as: the config whose quantisation `gradients(..., qat=True)` trains through."""
        self.model, self.optimizer, self.dtype = model, optimizer, dtype
        self._stored_as, self._chunk = stored_as, loss_chunk
        self._gradients: dict[bool, Callable[..., Any]] = {}
        self.update = mx.compile(self._updated)

    def gradients(
        self, params: Arrays, biases: Arrays, batch: dict[str, mx.array], qat: bool = False
    ) -> tuple[mx.array, mx.array, Arrays]:
        """batch: tokens [B, L+1], segments [B, L+1] int32, loss [B, L] float32.

        Returns the summed (not averaged) loss, the experts' loads [MoE layers, E], and the
        gradients of the sum; sums of several micro-batches are those of one large batch.
        """
        if qat not in self._gradients:
            self._gradients[qat] = mx.compile(self._make_gradients(qat))
        arrays = batch["tokens"], batch["segments"], batch["loss"]
        return self._gradients[qat](params, biases, *arrays)

    def set_weights(self, params: Arrays, biases: Arrays, qat: bool = False) -> None:
        """Give the model weights as the forward pass takes them."""
        weights = compute_weights(params, self.dtype, self._stored_as if qat else None)
        self.model.update(tree_unflatten(list((weights | biases).items())))

    def _make_gradients(self, qat: bool) -> Callable[..., Any]:
        def loss(
            params: Arrays, biases: Arrays, tokens: mx.array, segments: mx.array, weights: mx.array
        ) -> tuple[mx.array, mx.array]:
            self.set_weights(params, biases, qat)
            loads: list[mx.array] = []
            hidden = self.model.hidden(tokens[:, :-1], segments=segments[:, :-1], router_load=loads)
            total = weighted_loss(
                hidden.reshape(-1, hidden.shape[-1]),
                self.model.lm_head.weight,
                tokens[:, 1:].flatten(),
                weights.flatten(),
                self._chunk,
            )
            load = mx.stack(loads) if loads else mx.zeros((0, 1))
            return total, mx.stop_gradient(load.astype(mx.float32))

        grad = mx.value_and_grad(loss)

        def gradients(*args: Any) -> tuple[mx.array, mx.array, Arrays]:
            (total, load), grads = grad(*args)
            return total, load, grads

        return gradients

    def _updated(
        self,
        params: Arrays,
        biases: Arrays,
        state: Arrays,
        grads: Arrays,
        loads: mx.array,
        weight: mx.array,
        lr: mx.array,
        router_rate: mx.array,
    ) -> tuple[Arrays, Arrays, Arrays, mx.array]:
        """What `update` compiles: the gradients' sum divided by `weight` (the sum of the loss
        weights), clipped and applied. Returns parameters, biases, optimiser state and the
        gradient's norm before clipping."""
        grads = {name: g / weight for name, g in grads.items()}
        grads, norm = clip_gradients(grads, self.optimizer.clip)
        params, state = apply_gradients(self.optimizer, params, grads, state, lr)
        if biases:
            biases = move_biases(biases, loads, router_rate)
        return params, biases, state, norm

"""The routed experts of one layer alone, in both engines, with the same choice of experts."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import mlx.core as mx

from k2mlx.bench.contest import Contest
from k2mlx.bench.measure import Taken

MANY = 64  # rows from which one call is long beside the host's part of it
Inputs = list[tuple[mx.array, mx.array, mx.array]]


def ours(contest: Contest, rows: int) -> Callable[[Random], Taken]:
    layer: Any = contest.loaded.model.layers[-1]
    return lambda draw: _timed(layer.mlp.experts, _inputs(contest, rows, draw))


def theirs(contest: Contest, rows: int) -> Callable[[Random], Taken]:
    """SwitchGLU and the weighted sum that follows it in deepseek_v3."""
    peer: Any = contest.peer
    switch = peer.layers[-1].mlp.switch_mlp

    def run(x: mx.array, chosen: mx.array, weights: mx.array) -> mx.array:
        y = switch(x, chosen)
        return (y * weights[..., None]).sum(axis=-2).astype(y.dtype)

    return lambda draw: _timed(run, _inputs(contest, rows, draw))


def _inputs(contest: Contest, rows: int, draw: Random) -> Inputs:
    """Activations, chosen experts and their weights for several calls."""
    config = contest.loaded.config
    experts, chosen = config.n_routed_experts, config.num_experts_per_tok
    dtype = contest.loaded.model.model.norm.weight.dtype
    inputs = []
    for _ in range(20 if rows < MANY else 2):
        key = mx.random.key(draw.getrandbits(32))
        x = mx.random.normal((rows, config.hidden_size), dtype, key=key)
        order = mx.argsort(mx.random.uniform(shape=(rows, experts), key=key), axis=-1)
        weights = mx.random.uniform(shape=(rows, chosen), key=key)
        inputs.append((x, order[:, :chosen].astype(mx.uint32), weights))
    mx.eval(inputs)
    return inputs


def _timed(run: Callable[[mx.array, mx.array, mx.array], mx.array], inputs: Inputs) -> Taken:
    began = time.perf_counter()
    mx.eval([run(*values) for values in inputs])
    return Taken((time.perf_counter() - began) / len(inputs))

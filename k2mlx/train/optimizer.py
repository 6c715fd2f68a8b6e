"""Muon for the matrices, AdamW for embedding, head and norms, with one learning rate.

    Muon:   M <- mu M + G;  W <- W (1 - lr wd) - lr 0.2 sqrt(max(n, m)) NS(G + mu M)      (Nesterov)
    AdamW:  W <- W (1 - lr wd) - lr m^ / (sqrt(v^) + eps)

Decay is decoupled and falls on the norms too (k2-spec 5). Parameters, gradients and state are
float32, in flat dictionaries by parameter name; the functions are pure, so that they compile and
resume exactly. The router's correction bias is no parameter here: `balance.py` moves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .muon import orthogonalize

Arrays = dict[str, mx.array]
ROUTER = ".mlp.gate."


@dataclass(frozen=True)
class OptimizerConfig:
    """`kind` "adamw" uses AdamW for everything, as a control. `adam_scale`: AdamW's learning rate
    as a multiple of Muon's, `router_scale` the routers': they must move slower than the correction
    biases can follow, or one expert gets every token. `clip`: largest norm of all gradients."""

    kind: str = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    adam_scale: float = 1.0
    router_scale: float = 1.0


def uses_muon(config: OptimizerConfig, name: str, value: mx.array) -> bool:
    """Whether this parameter is a matrix to Muon."""
    outer = "embed_tokens" in name or name.startswith("lm_head")
    return config.kind == "muon" and value.ndim >= 2 and not outer


def init_state(config: OptimizerConfig, params: Arrays) -> Arrays:
    """Zero momenta: "muon.NAME", or "adam.m.NAME" and "adam.v.NAME", and the "step" count."""
    state = {"step": mx.array(0, mx.int32)}
    for name, value in params.items():
        kinds = ["muon"] if uses_muon(config, name, value) else ["adam.m", "adam.v"]
        state |= {f"{kind}.{name}": mx.zeros(value.shape) for kind in kinds}
    return state


def clip_gradients(grads: Arrays, clip: float) -> tuple[Arrays, mx.array]:
    """Scale all gradients so that their joint norm is at most `clip`; also returns the norm before.

    A gradient that is not finite becomes zero: one bad batch must not end a run that nobody
    watches. Its norm is returned as it is, and so shows in the metrics.
    """
    norm = mx.sqrt(sum((mx.sum(mx.square(g)) for g in grads.values()), mx.array(0.0)))
    fine = mx.isfinite(norm)
    scale = mx.where(fine, mx.minimum(1.0, clip / (norm + 1e-6)), 0.0)
    return {name: mx.where(fine, g * scale, 0.0) for name, g in grads.items()}, norm


def apply_gradients(
    config: OptimizerConfig, params: Arrays, grads: Arrays, state: Arrays, lr: mx.array
) -> tuple[Arrays, Arrays]:
    """One step of all parameters; `lr` is a scalar array. Returns new parameters and new state."""
    step = state["step"] + 1
    new_state = {"step": step}
    muon = {name for name, value in params.items() if uses_muon(config, name, value)}
    momenta = {}
    for name in (n for n in params if n in muon):
        m = config.momentum * state[f"muon.{name}"] + grads[name]
        new_state[f"muon.{name}"] = m
        momenta[name] = grads[name] + config.momentum * m if config.nesterov else m
    updates = orthogonalize(momenta)
    adam_lr = lr * config.adam_scale
    new_params = {}
    for name, value in params.items():
        if name in muon:
            rate, update = lr * config.router_scale if ROUTER in name else lr, updates[name]
        else:
            rate, update = adam_lr, _adam(config, name, grads[name], state, new_state, step)
        new_params[name] = value * (1 - rate * config.weight_decay) - rate * update
    return new_params, new_state


def _adam(
    config: OptimizerConfig, name: str, g: mx.array, state: Arrays, new: Arrays, step: mx.array
) -> mx.array:
    b1, b2 = config.beta1, config.beta2
    m = b1 * state[f"adam.m.{name}"] + (1 - b1) * g
    v = b2 * state[f"adam.v.{name}"] + (1 - b2) * mx.square(g)
    new[f"adam.m.{name}"], new[f"adam.v.{name}"] = m, v
    t = step.astype(mx.float32)
    return (m / (1 - mx.power(b1, t))) / (mx.sqrt(v / (1 - mx.power(b2, t))) + config.eps)

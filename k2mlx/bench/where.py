"""Where the time of one decoded token goes, beside the floor: the bytes that must be read, by the
bandwidth that the device reaches when it copies.

A part timed alone says little on a GPU: uncompiled it is bound by the host, and what overlaps in a
step is then counted twice. So parts are left out of the real step instead, one after another: first
the router, then the routed experts, and so on until only norms and sums are left. What the step
gets faster by is the part's. The differences add up to the whole step exactly, in whatever way host
and device overlap; what is left at the end is the host's row: launching, the loop over tokens,
norms and sampling. A part that hides wholly behind the host shows 0, as it should: without it no
token would come sooner. All variants are compiled as DecodeStep compiles them, on a GPU only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from k2mlx.bench import machine, ours
from k2mlx.load import Loaded
from k2mlx.model import DecoderLayer
from k2mlx.nn.attention import latent_attention
from k2mlx.nn.moe import MLP, MoE

STEPS = 32  # tokens decoded for the time of a whole step
# In this order they are left out. The router before the experts: nobody would ask for its choice.
PARTS = ("router", "experts", "shared expert", "dense", "attention", "head", "embedding")

Traced = Callable[..., Any]


@dataclass(frozen=True)
class Part:
    """ms: of all layers, for one token. bytes: weights and cache rows that it must read, as they
    are stored. floor_ms: those by the copy bandwidth."""

    part: str
    ms: float
    bytes: int
    floor_ms: float


def where(loaded: Loaded, depth: int, rounds: int = 5) -> dict[str, Any]:
    """One JSON object: the whole step of one stream at this depth, its parts and the floors.

    `host` is what is left of a step without any of the parts. `host_ms` is what the host needs to
    describe a whole step, beside the device's work or before it. Noise may make a step without a
    part look slower than one with it: the part is then 0, and the sum stays the whole.
    """
    bandwidth = copy_bandwidth(rounds)
    cache = ours.random_cache(loaded, depth)
    sizes = _sizes(loaded, depth)
    without = [frozenset(PARTS[:count]) for count in range(len(PARTS) + 1)]
    steps = [Step(loaded, left_out) for left_out in without]
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, taken in zip(steps, seconds, strict=True):
            one = _decode(step, cache, depth)
            if number:  # the first compiles
                taken.append(one)
    times = [median(taken) * 1e3 for taken in seconds]
    for i in range(1, len(times)):
        times[i] = min(times[i], times[i - 1])
    parts = [
        Part(name, times[i] - times[i + 1], sizes[name], sizes[name] / bandwidth * 1e3)
        for i, name in enumerate(PARTS)
        if sizes[name]
    ]
    # Parts that the model does not have took nothing: what was measured of them is noise.
    host = times[0] - sum(part.ms for part in parts)
    total = sum(part.bytes for part in parts)
    return {
        "case": "where",
        "depth": depth,
        "step_ms": times[0],
        "host_ms": _host(steps[0], cache, depth, rounds) * 1e3,
        "copy_bytes_per_second": bandwidth,
        "bytes": total,
        "floor_ms": total / bandwidth * 1e3,
        "parts": [asdict(part) for part in parts]
        + [{"part": "host", "ms": host, "bytes": 0, "floor_ms": 0.0}],
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'part':<14}{'ms':>9}{'share':>8}{'MB':>10}{'floor ms':>10}{'x floor':>9}"]

    def line(name: str, ms: float, size: int, floor: float) -> str:
        times = f"{ms / floor:9.1f}" if floor else f"{'':>9}"
        share = ms / found["step_ms"]
        return f"{name:<14}{ms:9.3f}{share:8.1%}{size / 1e6:10.2f}{floor:10.3f}{times}"

    lines += [line(p["part"], p["ms"], p["bytes"], p["floor_ms"]) for p in found["parts"]]
    lines.append(line("whole step", found["step_ms"], found["bytes"], found["floor_ms"]))
    lines.append(
        f"the host describes a step in {found['host_ms']:.3f} ms; the device copies"
        f" {found['copy_bytes_per_second'] / 1e9:.0f} GB/s; depth {found['depth']}"
    )
    return "\n".join(lines)


def copy_bandwidth(rounds: int = 5) -> float:
    """Bytes a second, read and written, of adding a number to a large array."""
    count = (1 << 28) if machine.on_gpu() else (1 << 24)
    x = mx.zeros((count,), mx.float32)
    mx.eval(x)
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        mx.eval(x + 1)
        seconds.append(time.perf_counter() - began)
    return 2 * x.nbytes / median(seconds[1:])


class Step:
    """A decode step as the model's DecodeStep does it, without some of its parts. What is left out
    is replaced by what it was given, or by a constant of the shape that it makes."""

    def __init__(self, loaded: Loaded, without: frozenset[str]) -> None:
        self._model, self._without = loaded.model, without
        layers = loaded.model.layers
        self._fixed = [_choice(layer.mlp, i) for i, layer in enumerate(layers)]
        self._state = mx.random.normal(
            (1, 1, loaded.config.hidden_size), loaded.model.model.norm.weight.dtype
        )
        mx.eval(self._state)
        compiled = mx.compile if machine.on_gpu() else lambda function: function
        if "attention" in without:
            self._all = compiled(self._feed_forwards)
            return
        for layer in layers:
            layer.self_attn.latent_matrices()
        self._enter = compiled(lambda x, places: self._queries(layers[0], x, places))
        self._after = [compiled(self._after_attention(i)) for i in range(len(layers))]

    def __call__(self, token: mx.array, cache: list[Any]) -> mx.array:
        """token [1, 1] -> the next one [1, 1]; extends the cache."""
        model, dtype = self._model, self._state.dtype
        # Without an embedding the step still depends on the token: else steps would overlap.
        if "embedding" in self._without:
            x = mx.depends(self._state, token)
        else:
            x = model.embed(token).astype(dtype)
        if "attention" in self._without:
            x = self._all(x)
        else:
            places = mx.array([cache[0].offset])
            x, q, rows = self._enter(x, places)
            for layer, one, after in zip(model.layers, cache, self._after, strict=True):
                latent = latent_attention(q, one.append(rows), layer.self_attn.scale, None)
                x, *following = after(x, latent, places)
                if following:
                    q, rows = following
        if "head" in self._without:
            return mx.depends(token, x)
        return mx.argmax(model.head(x), axis=-1).astype(token.dtype)

    def _queries(self, layer: DecoderLayer, x: mx.array, places: mx.array) -> list[mx.array]:
        attention = layer.self_attn
        q_nope, q_rope, rows = attention.project(layer.input_layernorm(x), places)
        return [x, attention.latent_queries(q_nope, q_rope), rows]

    def _after_attention(self, index: int) -> Traced:
        layers, norm = self._model.layers, self._model.model.norm

        def after(x: mx.array, latent: mx.array, places: mx.array) -> list[mx.array]:
            attention = layers[index].self_attn
            x = self._feed_forward(index, x + attention.merge(attention.from_latent(latent)))
            last = index + 1 == len(layers)
            return [norm(x)] if last else self._queries(layers[index + 1], x, places)

        return after

    def _feed_forwards(self, x: mx.array) -> mx.array:
        for i in range(len(self._model.layers)):
            x = self._feed_forward(i, x)
        return self._model.model.norm(x)

    def _feed_forward(self, index: int, x: mx.array) -> mx.array:
        layer, without = self._model.layers[index], self._without
        mlp, h = layer.mlp, layer.post_attention_layernorm(x)
        if isinstance(mlp, MLP):
            return x + (h if "dense" in without else mlp(h))
        rows = h.reshape(-1, h.shape[-1])
        choice = self._fixed[index] if "router" in without else mlp.gate(rows)
        y = rows if "experts" in without else mlp.experts(rows, *choice)
        return x + y.reshape(h.shape) + (h if "shared expert" in without else mlp.shared_experts(h))


def _choice(mlp: MLP | MoE, layer: int) -> tuple[mx.array, mx.array]:
    """Experts [1, K] uint32 and weights [1, K], as a router would give them."""
    if isinstance(mlp, MLP):
        return mx.zeros((1, 0), mx.uint32), mx.zeros((1, 0))
    count, chosen = mlp.gate.config.n_routed_experts, mlp.gate.config.num_experts_per_tok
    order = mx.argsort(mx.random.uniform(shape=(1, count), key=mx.random.key(layer)), axis=-1)
    found = order[:, :chosen].astype(mx.uint32), mx.full((1, chosen), 1 / chosen)
    mx.eval(found)
    return found


def _decode(step: Step, cache: list[Any], depth: int) -> float:
    """Seconds a token: the next step is given to the device before the host waits for this one, as
    Sequence does it."""
    token = step(mx.array([[1]]), cache)
    mx.eval(token)
    began = time.perf_counter()
    for _ in range(STEPS):
        following = step(token, cache)
        mx.async_eval(following)
        token.item()
        token = following
    mx.eval(token)
    seconds = (time.perf_counter() - began) / STEPS
    _trim(cache, depth)
    return seconds


def _host(step: Step, cache: list[Any], depth: int, rounds: int) -> float:
    """Seconds to describe a step to MLX, without computing it."""
    token, seconds = mx.array([[1]]), []
    for _ in range(rounds):
        began = time.perf_counter()
        y = step(token, cache)
        seconds.append(time.perf_counter() - began)
        mx.eval(y)
        _trim(cache, depth)
    return median(seconds)


def _trim(cache: list[Any], depth: int) -> None:
    for layer in cache:
        layer.trim(layer.offset - depth)


def _sizes(loaded: Loaded, depth: int) -> dict[str, int]:
    """Bytes that each part reads for a token."""
    model, config = loaded.model, loaded.config
    layers, dtype = model.layers, model.model.norm.weight.dtype
    row = (config.kv_lora_rank + config.qk_rope_head_dim) * dtype.size
    dense = [layer.mlp for layer in layers if isinstance(layer.mlp, MLP)]
    sparse = [layer.mlp for layer in layers if isinstance(layer.mlp, MoE)]
    share = config.num_experts_per_tok / config.n_routed_experts
    return {
        "router": _bytes(moe.gate for moe in sparse),
        "experts": round(_bytes(moe.experts for moe in sparse) * share),
        "shared expert": _bytes(moe.shared_experts for moe in sparse),
        "dense": _bytes(dense),
        "attention": _bytes(layer.self_attn for layer in layers) + len(layers) * depth * row,
        "head": _bytes([model.lm_head]),
        "embedding": config.hidden_size * dtype.size,
    }


def _bytes(modules: Iterable[nn.Module]) -> int:
    arrays: list[Any] = [tree_flatten(module.parameters()) for module in modules]
    return sum(value.nbytes for flat in arrays for _, value in flat)

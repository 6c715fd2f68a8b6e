"""Where the time of one decoded token goes, beside the floor: the bytes that must be read, by the
bandwidth that the device reaches when it copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from random import Random
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from k2mlx.bench import machine, ours
from k2mlx.load import Loaded
from k2mlx.model import DecoderLayer
from k2mlx.nn.moe import MLP, MoE

STEPS = 64  # tokens decoded for the time of a whole step
CHAIN = 8  # passes over all layers in one evaluation


@dataclass(frozen=True)
class Part:
    """ms: of all layers, for one token. bytes: weights and cache rows that it must read, as they
    are stored. floor_ms: those by the copy bandwidth."""

    part: str
    ms: float
    bytes: int
    floor_ms: float


Work = Callable[[mx.array], Any]  # x [1, 1, H] -> arrays


def where(loaded: Loaded, depth: int, rounds: int = 5) -> dict[str, Any]:
    """One JSON object: the whole step of one stream at this depth, its parts and the floors.

    Each part is timed alone: its calls for all layers one after another, so that weights come from
    memory and not from a cache on the chip. `rest` is what the step takes beyond the parts: norms,
    sums, sampling and the host where the device waits for it; below 0 where parts overlap.
    `host_ms` is what the host needs to describe a step, beside the device's work or before it.
    """
    bandwidth = copy_bandwidth(rounds)
    cache = ours.random_cache(loaded, depth)
    draw = Random(0)
    taken = [
        ours.go_on(loaded, cache, [draw.randrange(16)], depth, STEPS) for _ in range(rounds + 1)
    ]
    step = median(t.seconds for t in taken[1:]) * 1e3
    parts = []
    for name, calls, size in _parts(loaded, cache, depth):
        if calls:
            ms = _time(calls, cache, depth, loaded, rounds) * 1e3
            parts.append(Part(name, ms, size, size / bandwidth * 1e3))
    rest = step - sum(part.ms for part in parts)
    total = sum(part.bytes for part in parts)
    return {
        "case": "where",
        "depth": depth,
        "step_ms": step,
        "host_ms": _host(loaded, cache, depth, rounds) * 1e3,
        "copy_bytes_per_second": bandwidth,
        "bytes": total,
        "floor_ms": total / bandwidth * 1e3,
        "parts": [asdict(part) for part in parts]
        + [{"part": "rest", "ms": rest, "bytes": 0, "floor_ms": 0.0}],
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


def _parts(loaded: Loaded, cache: list[Any], depth: int) -> Iterable[tuple[str, list[Work], int]]:
    """Name, the calls of one pass, one a layer, and the bytes that they read."""
    model, config = loaded.model, loaded.config
    layers, dtype = model.layers, model.model.norm.weight.dtype
    row = (config.kv_lora_rank + config.qk_rope_head_dim) * dtype.size
    token = mx.array([[1]])
    dense = [layer.mlp for layer in layers if isinstance(layer.mlp, MLP)]
    sparse = [layer.mlp for layer in layers if isinstance(layer.mlp, MoE)]
    share = config.num_experts_per_tok / config.n_routed_experts

    def attention(layer: DecoderLayer, rows: Any) -> Work:
        return lambda x: layer.self_attn(layer.input_layernorm(x), rows)

    def head(x: mx.array) -> mx.array:
        return mx.argmax(model.head(model.model.norm(x)), axis=-1)

    yield "embedding", [lambda x: model.embed(token)], config.hidden_size * dtype.size
    attentions = [attention(*pair) for pair in zip(layers, cache, strict=True)]
    weights = _bytes(layer.self_attn for layer in layers)
    yield "attention", attentions, weights + len(layers) * depth * row
    yield "router", [_router(moe) for moe in sparse], _bytes(moe.gate for moe in sparse)
    experts = round(_bytes(moe.experts for moe in sparse) * share)
    yield "experts", [_experts(moe, i) for i, moe in enumerate(sparse)], experts
    shared: list[Work] = [moe.shared_experts for moe in sparse]
    yield "shared expert", shared, _bytes(moe.shared_experts for moe in sparse)
    yield "dense", list(dense), _bytes(dense)
    yield "head", [head], _bytes([model.lm_head, model.model.norm])


def _router(moe: MoE) -> Work:
    return lambda x: moe.gate(x.reshape(-1, x.shape[-1]))


def _experts(moe: MoE, layer: int) -> Work:
    """Other experts at every call, as tokens choose them."""
    config = moe.gate.config
    count, chosen = config.n_routed_experts, config.num_experts_per_tok
    order = mx.argsort(mx.random.uniform(shape=(CHAIN, count), key=mx.random.key(layer)), axis=-1)
    choices = [order[i : i + 1, :chosen].astype(mx.uint32) for i in range(CHAIN)]
    weights = mx.full((1, chosen), 1 / chosen)
    mx.eval(choices, weights)
    calls = iter(range(1 << 30))

    def run(x: mx.array) -> mx.array:
        return moe.experts(x.reshape(-1, x.shape[-1]), choices[next(calls) % CHAIN], weights)

    return run


def _bytes(modules: Iterable[nn.Module]) -> int:
    arrays: list[Any] = [tree_flatten(module.parameters()) for module in modules]
    return sum(value.nbytes for flat in arrays for _, value in flat)


def _time(calls: list[Work], cache: list[Any], depth: int, loaded: Loaded, rounds: int) -> float:
    """Seconds of one pass over `calls`, each beginning when the one before it has ended."""
    config, dtype = loaded.config, loaded.model.model.norm.weight.dtype
    first = mx.random.normal((1, 1, config.hidden_size), dtype)
    mx.eval(first)
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        x = first
        for _ in range(CHAIN):
            for call in calls:
                found = call(x)
                x = mx.depends(x, found[-1] if isinstance(found, tuple) else found)
        mx.eval(x)
        seconds.append((time.perf_counter() - began) / CHAIN)
        for layer in cache:
            layer.trim(layer.offset - depth)
    return median(seconds[1:])


def _host(loaded: Loaded, cache: list[Any], depth: int, rounds: int) -> float:
    """Seconds to describe a step to MLX, without computing it."""
    token, seconds = mx.array([[1]]), []
    for _ in range(rounds):
        began = time.perf_counter()
        y = mx.argmax(loaded.model(token, cache)[:, -1], axis=-1)
        seconds.append(time.perf_counter() - began)
        mx.eval(y)
        for layer in cache:
            layer.trim(layer.offset - depth)
    return median(seconds)

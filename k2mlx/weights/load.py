"""From a model folder's files to the module tree's arrays, and back.

k2mlx's own layout is the module tree itself: experts stacked, K2's INT4 codes with their scales and
without biases (k2-spec 3.2). source.py reads the others.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from ..config import ROUTER, ModelConfig
from ..model import Model
from ..nn.quant import quantize, symmetric_biases
from .source import Source

Parts = dict[str, mx.array]  # of a matrix: weight, and scales and biases where it has them


def load_model(
    folder: Path,
    dtype: mx.Dtype,
    *,
    held: range | None = None,
    share: Callable[[str, Parts], Parts] | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Model:
    """The model in FOLDER, in any of the layouts of source.py, matrices in memory as they are
    stored (fp8: see Source.specs). Floating point values become `dtype`, the router's float32.

    held: the layers that are read (see Model), all by default. share: given each matrix's module
    path and parts, returns what this rank keeps of it. on_bytes: called with the bytes that have
    been read and those that will be.
    Peak memory: what stays, and the largest matrix that changes its dtype.
    Raises CheckpointError when a file is damaged, or a tensor missing, unknown or of another shape.
    """
    source = Source(folder, ModelConfig.load(folder), held)
    config = replace(source.config, quantization=source.quantization(), checkpoint_format="k2mlx")
    model, done, total = Model(config, held), 0, source.nbytes
    for name in source.plain_names():
        kind = mx.float32 if name.endswith(ROUTER) else dtype
        _put(model, {name: source.plain(name).astype(kind)})
    for path, spec in source.specs().items():
        parts = source.matrix(path, spec)
        if share is not None:
            parts = share(path, parts)
        if spec is not None:
            parts = {k: v if k == "weight" else v.astype(dtype) for k, v in parts.items()}
        else:
            parts = {"weight": parts["weight"].astype(dtype)}
        _put(model, {f"{path}.{kind}": value for kind, value in parts.items()})
        done += source.bytes_of(path)
        if on_bytes is not None:
            on_bytes(done, total)
    if on_bytes is not None:
        on_bytes(total, total)
    return model


def _put(model: Model, values: dict[str, mx.array]) -> None:
    mx.eval(values)
    model.load_weights(list(values.items()), strict=False)


def quantize_weights(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """Floating point tensors by module path -> those of the quantised model that `config`
    describes."""
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        spec = config.spec(name)
        if spec is None:
            out[name] = value
        else:
            stem = name.removesuffix("weight")
            out |= {stem + kind: part for kind, part in quantize(value, spec).items()}
    return out


def dequantize_weights(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """The inverse of `quantize_weights`, in float32: where training goes on from a quantised
    model."""
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        spec = config.spec(name)
        if spec is None:
            out[name] = value.astype(mx.float32)
        elif name.endswith(".weight"):
            stem = name.removesuffix("weight")
            scale = weights[stem + "scales"].astype(mx.float32)
            symmetric = spec.mode == "symmetric"
            bias = symmetric_biases(scale) if symmetric else weights[stem + "biases"]
            bias = bias.astype(mx.float32)
            out[name] = mx.dequantize(
                value, scale, bias, group_size=spec.group_size, bits=spec.bits
            )
    return out


def save_model(folder: Path, model: Model) -> None:
    """Write config.json and model.safetensors of a model, aside first and renamed when whole.

    Floating point values are stored as bfloat16, the router's correction bias as float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    weights = {}
    for name, value in model.named_parameters().items():
        if value.dtype != mx.uint32 and not name.endswith("e_score_correction_bias"):
            value = value.astype(mx.bfloat16)
        weights[name] = value
    with tempfile.TemporaryDirectory(dir=folder, prefix=".save-") as aside:
        mx.save_safetensors(f"{aside}/model.safetensors", weights, metadata={"format": "mlx"})
        content = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
        Path(aside, "config.json").write_text(content, encoding="utf-8")
        for name in ("model.safetensors", "config.json"):
            os.replace(f"{aside}/{name}", folder / name)

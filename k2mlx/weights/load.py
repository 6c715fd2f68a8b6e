"""From a model folder's files to the module tree's arrays, and back.

k2mlx's own layout is the module tree itself: experts stacked, K2's INT4 codes with their scales
and without the biases that MLX's kernels want, which are made here (k2-spec 3.2). The bfloat16
layout of Hugging Face, one matrix an expert, is stacked on the way in.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import mlx.core as mx

from ..config import ModelConfig, QuantSpec
from ..errors import CheckpointError
from ..model import Model
from ..nn.quant import quantize, symmetric_biases
from .files import read_header, weight_files

ROUTER = ("mlp.gate.weight", "mlp.gate.e_score_correction_bias")  # always float32


def load_weights(folder: Path, model: Model, dtype: mx.Dtype) -> None:
    """Fill `model` from FOLDER's files: floating point values become `dtype`, the router's float32.

    Raises CheckpointError when a file is damaged, or a tensor missing, unknown or of another shape.
    """
    config = model.config
    files = weight_files(folder)
    if config.checkpoint_format not in ("k2mlx", "bf16"):
        raise CheckpointError(
            f"{folder}: got weights in {config.checkpoint_format.upper()}; this version reads "
            "k2mlx's own INT4 layout and bfloat16; official FP8 and INT4 files come later."
        )
    weights: dict[str, mx.array] = {}
    for path in files:
        read_header(path)
        part = mx.load(str(path))
        assert isinstance(part, dict), "what mx.load makes of safetensors"
        if twice := weights.keys() & part.keys():
            raise CheckpointError(f"{path}: {min(twice)} is in two files; fetch the folder again")
        weights |= part
    if config.checkpoint_format == "bf16":
        weights = stack_experts(weights, config)
    weights |= {
        name.removesuffix("scales") + "biases": symmetric_biases(scales)
        for name, scales in weights.items()
        if name.endswith(".scales")
        and (spec := quant_spec(config, name)) is not None
        and spec.mode == "symmetric"
    }
    _check(folder, weights, model)
    model.load_weights([(name, _cast(name, value, dtype)) for name, value in weights.items()])


def stack_experts(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """`mlp.experts.E.{gate,up,down}_proj.weight` -> the two stacks of each layer; the rest as it
    is."""
    weights = dict(weights)
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.mlp.experts"
        parts: dict[str, list[mx.array]] = {"gate_proj": [], "up_proj": [], "down_proj": []}
        for expert in range(config.n_routed_experts):
            for name, stack in parts.items():
                key = f"{prefix}.{expert}.{name}.weight"
                if key not in weights:
                    raise CheckpointError(
                        f"{key}: missing; wanted {config.n_routed_experts} experts"
                    )
                stack.append(weights.pop(key))
        gate_up = zip(parts["gate_proj"], parts["up_proj"], strict=True)
        weights[f"{prefix}.gate_up_proj.weight"] = mx.stack(
            [mx.concatenate(list(p)) for p in gate_up]
        )
        weights[f"{prefix}.down_proj.weight"] = mx.stack(parts["down_proj"])
    return weights


def quantize_weights(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """Floating point tensors by module path -> those of the quantised model that `config`
    describes."""
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        spec = quant_spec(config, name)
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
        spec = quant_spec(config, name)
        if spec is None:
            out[name] = value.astype(mx.float32)
        elif name.endswith(".weight"):
            stem = name.removesuffix("weight")
            scale, bias = (weights[stem + k].astype(mx.float32) for k in ("scales", "biases"))
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
        spec = quant_spec(config, name)
        if name.endswith(".biases") and spec is not None and spec.mode == "symmetric":
            continue
        if value.dtype != mx.uint32 and not name.endswith("e_score_correction_bias"):
            value = value.astype(mx.bfloat16)
        weights[name] = value
    with tempfile.TemporaryDirectory(dir=folder, prefix=".save-") as aside:
        mx.save_safetensors(f"{aside}/model.safetensors", weights, metadata={"format": "mlx"})
        content = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
        Path(aside, "config.json").write_text(content, encoding="utf-8")
        for name in ("model.safetensors", "config.json"):
            os.replace(f"{aside}/{name}", folder / name)


def quant_spec(config: ModelConfig, name: str) -> QuantSpec | None:
    """How the tensor with this module path is stored."""
    q = config.quantization
    if q is None or "norm" in name or any(part in name for part in ROUTER):
        return None
    if ".mlp.experts." in name:
        return q.experts
    if name.startswith("lm_head."):
        return q.lm_head
    return q.embed_tokens if name.startswith("model.embed_tokens.") else q.rest


def _cast(name: str, value: mx.array, dtype: mx.Dtype) -> mx.array:
    if not mx.issubdtype(value.dtype, mx.floating):
        return value
    return value.astype(mx.float32 if name.endswith(ROUTER) else dtype)


def _check(folder: Path, weights: dict[str, mx.array], model: Model) -> None:
    wanted = model.named_parameters()
    for name, parameter in wanted.items():
        if name not in weights:
            raise CheckpointError(
                f"{folder}: {name}: missing, wanted {_kind(parameter)}; the folder looks "
                "incomplete, fetch it again"
            )
        got = weights[name]
        both = (got.dtype, parameter.dtype)
        alike = both[0] == both[1] or all(mx.issubdtype(kind, mx.floating) for kind in both)
        if got.shape != parameter.shape or not alike:
            raise CheckpointError(
                f"{folder}: {name}: got {_kind(got)}, wanted {_kind(parameter)}; config.json and "
                "the weights do not belong together, fetch the folder again"
            )
    if unknown := weights.keys() - wanted.keys():
        raise CheckpointError(
            f"{folder}: got {min(unknown)}, which is not part of this model ({len(unknown)} such "
            "tensors); config.json and the weights do not belong together, fetch the folder again"
        )


def _kind(value: mx.array) -> str:
    return f"{value.dtype} {list(value.shape)}".removeprefix("mlx.core.")

"""Seeded random weights in the official layouts and at an official model's true width, for a few
layers: what a loader can be proven on without the real weights.

Layouts: k2-spec 3. The values are random bits in a sensible range, not normal numbers: at K2's
width a layer has 17 billion of them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig, QuantSpec
from ..errors import CheckpointError
from ..home import PARTIAL
from ..nn.quant import check_groups
from .files import INDEX
from .matrix import BLOCK, K2_GRID, stored_parts
from .names import Shape, checkpoint_tensors
from .write import Planned, check_room, write_json, write_safetensors

FORMATS = ("int4", "fp8", "bf16")
# Magnitude of a weight, about that of N(0, 0.02): logits stay small.
LARGEST = 2.0**-5
KEPT = ("embed_tokens.", "lm_head.", "norm.", ".mlp.gate.")  # bfloat16 in every format


def write_slice(
    out: Path,
    config: Path,
    *,
    layers: int,
    form: str,
    rest: QuantSpec | None = None,
    vocab: int | None = None,
    seed: int = 0,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Path:
    """Write a checkpoint of `layers` layers of the model in folder `config` to the new folder
    `out`, one file a layer.

    form: of FORMATS; `rest` stores what is not expert of int4 in MLX's affine form instead of
    bfloat16. vocab: rows of embedding and head. report(bytes done, bytes in all, file).
    Raises CheckpointError where `out` exists.
    """
    partial = out.with_name(out.name + PARTIAL)
    for path in (out, partial):
        if os.path.lexists(path):
            raise CheckpointError(f"{path}: exists already; give another folder, or remove it")
    full = ModelConfig.load(config)
    small = replace(
        full, num_hidden_layers=layers, vocab_size=vocab or full.vocab_size, eos_token_id=()
    )
    files: dict[str, list[Planned]] = {}
    for name, shape in checkpoint_tensors(small):
        part = int(name.split(".")[2]) + 2 if name.startswith("model.layers.") else 1
        file = f"model-{part:05d}-of-{layers + 1:05d}.safetensors"
        files.setdefault(file, []).extend(_planned(name, shape, form, rest))
    total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors)
    partial.mkdir(parents=True)
    try:
        check_room(partial, total)
        done = 0
        for number, (file, tensors) in enumerate(sorted(files.items())):
            write_safetensors(partial / file, tensors, _values(tensors, seed * 1000 + number))
            done += sum(tensor.nbytes for tensor in tensors)
            report(done, total, file)
        where = {tensor.name: file for file, tensors in files.items() for tensor in tensors}
        write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        write_json(partial / "config.json", _config(config, small, form))
        partial.rename(out)
    except BaseException:  # a slice is not gone on with: another one's files would stay in it
        shutil.rmtree(partial)
        raise
    return out


def _planned(name: str, shape: Shape, form: str, rest: QuantSpec | None) -> Iterator[Planned]:
    stem, expert = name.removesuffix("weight"), ".mlp.experts." in name
    if len(shape) == 1 or name.endswith(".mlp.gate.weight"):
        yield Planned(name, "F32" if name.endswith("_bias") else "BF16", shape)
        return
    rows, inputs = shape
    if form == "int4" and (expert or rest is not None):
        check_groups(inputs, K2_GRID if expert or rest is None else rest, name)
    if form == "int4" and expert:
        yield Planned(f"{stem}weight_packed", "I32", (rows, inputs // 8))
        yield Planned(f"{stem}weight_scale", "BF16", (rows, inputs // 32))
        yield Planned(f"{stem}weight_shape", "I32", (2,))
    elif form == "fp8" and not any(kept in name for kept in KEPT):
        yield Planned(name, "F8_E4M3", shape)
        blocks = (-(-rows // BLOCK), -(-inputs // BLOCK))
        yield Planned(f"{stem}weight_scale_inv", "F32", blocks)
    elif form == "int4" and rest is not None:
        for kind, part in stored_parts(rows, inputs, rest).items():
            yield Planned(stem + kind, "U32" if kind == "weight" else "BF16", part)
    else:
        yield Planned(name, "BF16", shape)


def _values(tensors: list[Planned], seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for tensor in tensors:
        yield _value(tensor, shapes, rng)


def _value(tensor: Planned, shapes: dict[str, Shape], rng: np.random.Generator) -> np.ndarray:
    name, shape = tensor.name, tensor.shape
    if name.endswith("weight_shape"):
        rows, words = shapes[name.removesuffix("shape") + "packed"]
        return np.array([rows, words * 8], np.int32)
    if tensor.dtype in ("I32", "U32"):
        return _bits(rng, shape, np.uint32)
    if tensor.dtype == "F8_E4M3":
        bits = _bits(rng, shape, np.uint8)
        bits[(bits & 0x7F) == 0x7F] = 0x7E  # NaN
        return bits
    if name.endswith("weight_scale_inv"):
        return (LARGEST / 448 * rng.uniform(0.5, 1, shape)).astype(np.float32)
    if name.endswith(("weight_scale", ".scales")):
        return _bfloat16(LARGEST / 8 * rng.uniform(0.5, 1, shape))
    if name.endswith(".biases"):
        return _bfloat16(-LARGEST * rng.uniform(0.5, 1, shape))
    if name.endswith("norm.weight"):
        return _bfloat16(1 + 0.1 * rng.standard_normal(shape))
    if name.endswith("_bias"):
        return (0.01 * rng.standard_normal(shape)).astype(np.float32)
    # Sign and mantissa at random, one of four exponents below LARGEST.
    exponent = np.uint16((127 - 9) << 7)
    return (_bits(rng, shape, np.uint16) & np.uint16(0x81FF)) + exponent


def _bits(rng: np.random.Generator, shape: Shape, dtype: type) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(bytearray(rng.bytes(count)), dtype).reshape(shape)


def _bfloat16(value: np.ndarray) -> np.ndarray:
    """The bits of the bfloat16 towards zero."""
    return (value.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _config(folder: Path, small: ModelConfig, form: str) -> dict[str, Any]:
    """The official config.json with fewer layers, quantised as `form` says."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content = dict(content.get("text_config") or content)
    content.update(num_hidden_layers=small.num_hidden_layers, vocab_size=small.vocab_size)
    own = ("quantization", "quantization_config", "checkpoint_format")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", *own):
        content.pop(key, None)
    content["chat_format"] = small.chat_format
    if form == "fp8":
        content["quantization_config"] = {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        }  # fmt: skip
    elif form == "int4":
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                   "group_size": 32}  # fmt: skip
        content["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "quantization_status": "compressed", "kv_cache_scheme": None,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                       "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
        }  # fmt: skip
    return content

"""A few layers of an official model at its true width with random weights, made on the device.

Nothing is read but config.json: 4 layers of K2 are 34 GB, which a GPU makes in half a second.
(`k2mlx slice` writes such weights as files, for proving loaders.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from k2mlx.config import ModelConfig, Quantization, QuantSpec
from k2mlx.load import Loaded, default_dtype
from k2mlx.model import Model
from k2mlx.tokenizer import ByteTokenizer
from k2mlx.weights.matrix import K2_GRID
from k2mlx.weights.write import write_json

PIECE = 48  # experts made at a time: one call for a whole stack would need twice its memory
STEP = 0.004  # largest scale of a 4-bit code: weights then have about the size of K2's


class SliceTokenizer(ByteTokenizer):
    """Bytes, and as many ids as the model has: nothing is read out of random weights."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def token_bytes(self, token: int) -> bytes:
        """Nothing for ids beyond the bytes."""
        size = len(self.special) + 256
        return super().token_bytes(token) if token < size else b""


def random_slice(
    config: Path, out: Path, *, layers: int, rest: QuantSpec | None, seed: int = 0, **changes: Any
) -> Loaded:
    """The first `layers` layers of the model in folder `config`, K2's INT4 for the experts.

    rest: how embedding, head, attention, dense and shared parts are stored; None is the device's
    floating point. out: a new folder that stands for the model's; it gets config.json and a file
    that tells this slice from others, for what is kept by model (the prefix cache on disk).
    changes: fields of the config, for tests.
    """
    full = ModelConfig.load(config)
    small = replace(
        full,
        num_hidden_layers=layers,
        quantization=Quantization(K2_GRID, rest, rest, rest),
        checkpoint_format="k2mlx",
        eos_token_id=(),
        **changes,
    )
    model = Model(small)
    _fill(model, seed)
    model.eval()
    out.mkdir(parents=True)
    write_json(out / "config.json", small.to_dict())
    mx.save_safetensors(str(out / "model.safetensors"), {"seed": mx.array([seed, layers])})
    size = sum(value.nbytes for value in model.named_parameters().values())
    return Loaded(model, SliceTokenizer(small.vocab_size), small, out, size)


def _fill(model: Model, seed: int) -> None:
    """Give every parameter its values, one after another: the device never holds more than the
    model and one array beside it."""
    mx.random.seed(seed)
    dtype, shapes = default_dtype(), model.named_parameters()
    for name in sorted(shapes, key=lambda name: name.endswith(".biases")):  # they need the scales
        like = shapes[name]
        if name.endswith(".biases"):
            scales = shapes[name.removesuffix("biases") + "scales"]
            value = scales * -_middle(model.config, name)
        else:
            value = _value(model.config, name, like, dtype)
        mx.eval(value)
        shapes[name] = value
        model.update(tree_unflatten([(name, value)]))
        del like, value
    mx.clear_cache()


def _value(config: ModelConfig, name: str, like: mx.array, dtype: mx.Dtype) -> mx.array:
    if like.dtype == mx.uint32:
        return _bits(like.shape)
    if name.endswith(".scales"):
        largest = STEP * 8 / _middle(config, name)
        return (mx.random.uniform(0.5, 1.0, like.shape) * largest).astype(dtype)
    if name.endswith("norm.weight"):
        return mx.ones(like.shape, dtype)
    if name.endswith("e_score_correction_bias"):
        return mx.zeros(like.shape)
    if name.endswith("mlp.gate.weight"):  # the router: float32 on every device
        return mx.random.normal(like.shape, scale=0.02)
    return mx.random.normal(like.shape, dtype, scale=0.02)


def _middle(config: ModelConfig, name: str) -> int:
    """The code that stands for zero: 8 of 16."""
    spec = config.spec(name)
    assert spec is not None
    return 1 << (spec.bits - 1)


def _bits(shape: tuple[int, ...]) -> mx.array:
    """Random words, as an expert's codes are in pieces along the first axis."""

    def words(shape: tuple[int, ...]) -> mx.array:
        # Halves: MLX 0.32.4 scales a float to the range, so words at once had 8 low bits of 0.
        high, low = (mx.random.randint(0, 1 << 16, shape, mx.uint32) for _ in range(2))
        return high << 16 | low

    if len(shape) < 3:
        return words(shape)
    pieces = []
    for start in range(0, shape[0], PIECE):
        pieces.append(words((min(PIECE, shape[0] - start), *shape[1:])))
        mx.eval(pieces[-1])
    return mx.concatenate(pieces)

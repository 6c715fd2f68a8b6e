"""From a path to a model that can run: the only place where config, weights and tokenizer meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from .config import ModelConfig
from .errors import TokenizerError
from .home import find_model
from .model import Model
from .nn.quant import QuantizedLinear
from .tokenizer import Tokenizer, load_tokenizer
from .weights.files import weight_files
from .weights.load import load_model

PADDING = 1024  # vocabularies are padded to round sizes, by less than this


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with what belongs to it."""

    model: Model
    tokenizer: Tokenizer
    config: ModelConfig
    path: Path
    bytes: int  # of the weights' files


def default_dtype() -> mx.Dtype:
    """float32 on the CPU, where MLX's bfloat16 is ten times slower, bfloat16 on a GPU."""
    return mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16


def expand_all_but_experts(model: Model) -> None:
    """Keep the quantised matrices of attention, head and dense parts in floating point.

    For the CPU, where MLX multiplies a row with a quantised matrix five times slower than with the
    same one expanded. For k2-nano that is a quarter of a token's time, for 17 MB. The experts,
    nearly all of the weights, stay as they are.
    """

    def expand(module: nn.Module) -> nn.Module:
        if not isinstance(module, QuantizedLinear):
            return module
        outputs, inputs = module.scales.shape[0], module.scales.shape[1] * module.spec.group_size
        dense = nn.Linear(inputs, outputs, bias=False)
        spec = module.spec
        dense.weight = mx.dequantize(*module.parts, group_size=spec.group_size, bits=spec.bits)
        return dense

    leaves = model.leaf_modules()
    model.update_modules(tree_map(expand, leaves, is_leaf=lambda m: isinstance(m, nn.Module)))


def check_vocabulary(path: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    """TokenizerError unless the tokenizer is of the model's size."""
    if not config.vocab_size - PADDING < tokenizer.vocab_size <= config.vocab_size:
        raise TokenizerError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{config.vocab_size}; they do not belong together, fetch the folder again"
        )


def load(
    name: str | Path,
    dtype: mx.Dtype | None = None,
    *,
    as_stored: bool = False,
    held: range | None = None,
    read: Callable[..., Model] = load_model,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Load the model in folder `name` (or of that name, see `home.find_model`) onto the default
    device.

    as_stored: every matrix quantised as in the files, also where this device would rather have it
    expanded (`expand_all_but_experts`). held: the layers that are loaded, all by default. read:
    reads the weights, as `load_model` does. on_bytes: called with bytes read and bytes to read.
    Raises CheckpointError, ConfigError or TokenizerError, each saying which file and what to do.
    """
    path = find_model(str(name))
    tokenizer = load_tokenizer(path)
    model = read(path, dtype or default_dtype(), held=held, on_bytes=on_bytes)
    config = model.config
    check_vocabulary(path, tokenizer, config)
    if mx.default_device() == mx.cpu and not as_stored:
        expand_all_but_experts(model)
    model.eval()
    mx.eval(model.parameters())
    if held is None:
        size = sum(file.stat().st_size for file in weight_files(path))
    else:
        size = sum(value.nbytes for value in model.named_parameters().values())
    return Loaded(model, tokenizer, config, path, size)

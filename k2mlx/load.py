"""From a path to a model that can run: the only place where config, weights and tokenizer meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from .config import ModelConfig
from .errors import TokenizerError
from .home import find_model
from .model import Model
from .tokenizer import Tokenizer, load_tokenizer
from .weights.load import load_weights

PADDING = 1024  # vocabularies are padded to round sizes, by less than this


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with what belongs to it."""

    model: Model
    tokenizer: Tokenizer
    config: ModelConfig
    path: Path


def default_dtype() -> mx.Dtype:
    """float32 on the CPU, where MLX's bfloat16 is ten times slower, bfloat16 on a GPU."""
    return mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16


def load(name: str | Path, dtype: mx.Dtype | None = None) -> Loaded:
    """Load the model in folder `name` (or of that name, see `home.find_model`) onto the default
    device.

    Raises CheckpointError, ConfigError or TokenizerError, each saying which file and what to do.
    """
    path = find_model(str(name))
    config = ModelConfig.load(path)
    model = Model(config)
    load_weights(path, model, dtype or default_dtype())
    tokenizer = load_tokenizer(path)
    if not config.vocab_size - PADDING < tokenizer.vocab_size <= config.vocab_size:
        raise TokenizerError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{config.vocab_size}; they do not belong together, fetch the folder again"
        )
    model.eval()
    mx.eval(model.parameters())
    return Loaded(model, tokenizer, config, path)

"""What an engine's thread tells the others about the model that it has loaded."""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from k2mlx.chat import stop_ids
from k2mlx.config import ModelConfig
from k2mlx.generate.prefix import PrefixStore
from k2mlx.load import Loaded
from k2mlx.tokenizer import Tokenizer
from k2mlx.weights.names import count_parameters


@dataclass(frozen=True)
class EngineInfo:
    """What is loaded. `parameters` counts weights as trained (packed codes unpacked), `bytes` the
    files, `prefix_memory` and `prefix_disk` the bytes that kept prefixes may take (0: none are)."""

    name: str
    parameters: int
    bytes: int
    context: int
    device: str
    prefix_memory: int = 0
    prefix_disk: int = 0


class Ready(NamedTuple):
    """What the engine's thread offers the others once the model is there."""

    info: EngineInfo
    config: ModelConfig
    tokenizer: Tokenizer
    vocabulary: int
    ends: frozenset[int]


def describe(loaded: Loaded, prefix: PrefixStore | None = None) -> Ready:
    """Called on the engine's thread."""
    config = loaded.config
    info = EngineInfo(
        name=loaded.path.name,
        parameters=count_parameters(config),
        bytes=loaded.bytes,
        context=config.max_position_embeddings,
        device=str(mx.default_device().type).removeprefix("DeviceType."),
        prefix_memory=prefix.budget if prefix is not None else 0,
        prefix_disk=prefix.disk_budget if prefix is not None else 0,
    )
    # K2-Instruct's original config names only [EOS]; its turns end with <|im_end|>.
    ends = stop_ids(loaded.tokenizer).union(config.eos_token_id)
    # A model's vocabulary may be padded; ids that the tokenizer lacks must not be sampled.
    vocabulary = min(loaded.tokenizer.vocab_size, config.vocab_size)
    return Ready(info, config, loaded.tokenizer, vocabulary, ends)

"""Which files of a repository a model needs, and which of its shards one rank needs.

Only what k2mlx reads is ever fetched: no pickle, no Python, no other framework's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import HubError, RequestError
from ..fields import parse_json

INDEX = "model.safetensors.index.json"
SMALL = {
    "config.json", "generation_config.json", INDEX, "manifest.json",
    "tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.md", "LICENSE.txt",  # a licence that asks to travel with the weights
}  # fmt: skip

_PREFIX = r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?"  # K2.5 wraps the text model
_LAYER = re.compile(_PREFIX + r"layers\.(\d+)\.")
_FIRST = re.compile(_PREFIX + r"embed_tokens\.")
_LAST = re.compile(_PREFIX + r"(?:norm|lm_head)\.")
_VISION = re.compile(r"(?:model\.)?(?:vision|visual|mm_projector|multi_modal_projector)")


def small_files(names: Iterable[str]) -> list[str]:
    """Everything a model needs beside its weights: configs, tokenizer, template, index."""
    return sorted(SMALL.intersection(names))


def shards(names: Iterable[str], weight_map: Mapping[str, str] | None) -> list[str]:
    """All weight files: those that the index names, or every model*.safetensors without one.

    Raises HubError when there are none, or when the index names one that the repository lacks.
    """
    names = set(names)
    if weight_map is None:
        found = {n for n in names if n.endswith(".safetensors") and n.startswith("model")}
        if not found:
            raise HubError("the repository has no model*.safetensors; no other weights are fetched")
        return sorted(found)
    found = set(weight_map.values())
    if missing := sorted(found - names):
        raise HubError(f"{INDEX} names {missing[0]}, which the repository lacks; tell its owner")
    return sorted(found)


def read_index(text: bytes) -> dict[str, str]:
    """The index's weight_map: tensor -> shard.

    Raises HubError for what is no index, or names a file that is not one of the repository's own
    *.safetensors, such as `../x`.
    """
    try:
        weight_map = parse_json(text)["weight_map"]
        items = dict(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(
            f"{INDEX}: got {type(error).__name__}, wanted JSON with weight_map"
        ) from None
    for name in items.values():
        if not isinstance(name, str) or not is_plain(name) or not name.endswith(".safetensors"):
            raise HubError(f"{INDEX}: got file {name!r}, wanted a *.safetensors beside the index")
    return items


def is_plain(name: str) -> bool:
    """Whether this names a file directly inside a folder, and nothing else on any system."""
    return bool(re.fullmatch(r"[\w@+=,-][\w@+=,. -]*", name)) and not name.endswith((".", " "))


def layers_of(split: list[int], rank: int) -> range:
    """The layers that a rank holds: they follow each other, rank 0 first.

    Raises RequestError for a rank that the split lacks, or one without layers.
    """
    if min(split, default=0) < 1:
        raise RequestError(f"--split {_words(split)}: wanted at least one layer for each rank")
    if not 0 <= rank < len(split):
        raise RequestError(
            f"--rank {rank}: wanted 0 to {len(split) - 1} of --split {_words(split)}"
        )
    begin = sum(split[:rank])
    return range(begin, begin + split[rank])


def rank_shards(weight_map: Mapping[str, str], split: list[int], rank: int) -> list[str]:
    """The shards that hold anything of a rank: its layers; the embedding for the first rank, the
    final norm and the head for the last. Vision is nobody's; a tensor of another kind is
    everybody's.

    Raises RequestError when the split does not have as many layers as the index.
    """
    layers = layers_of(split, rank)
    found = [int(match[1]) for name in weight_map if (match := _LAYER.match(name))]
    count = max(found, default=-1) + 1
    if sum(split) != count:
        raise RequestError(
            f"--split {_words(split)}: has {sum(split)} layers, the model has {count}; "
            "give every rank's layers, such as --split 31,30 for 61"
        )
    ranks = len(split)
    tied = not any("lm_head." in name for name in weight_map)
    return sorted(
        {file for name, file in weight_map.items() if _needed(name, layers, rank, ranks, tied)}
    )


def _needed(name: str, layers: range, rank: int, ranks: int, tied: bool) -> bool:
    if match := _LAYER.match(name):
        return int(match[1]) in layers
    if _FIRST.match(name):
        return rank == 0 or (tied and rank == ranks - 1)
    if _LAST.match(name):
        return rank == ranks - 1
    return not _VISION.match(name)


def _words(split: list[int]) -> str:
    return ",".join(map(str, split))

"""Builds what a recipe describes: the vocabulary, text shards and conversation shards."""

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k2mlx.data.context import Context, ToolSpec
from k2mlx.data.conversations import write_chat_shard
from k2mlx.data.corpus import Split, write_text_shards
from k2mlx.data.recipe import KINDS, ChatShardRecipe, Recipe
from k2mlx.data.sample import compact, read_tools, sample
from k2mlx.data.schema import Conversation
from k2mlx.data.vocabulary import train_sentencepiece
from k2mlx.errors import ConfigError
from k2mlx.tokenizer import Tokenizer, load_tokenizer

MANIFEST = "SHARDS.json"
LONGEST_DISTRACTOR = 900  # characters of its declaration


def learn_vocabulary(recipe: Recipe, source: Path, path: Path, builtin: list[ToolSpec]) -> None:
    """Trains the recipe's vocabulary and writes it to `path`."""
    texts = {text.name: text for text in recipe.texts}
    lines = sample(recipe.vocabulary, texts, source, builtin)
    train_sentencepiece(lines, path, recipe.vocabulary_size)


def tokenizer_of(folder: Path) -> tuple[Tokenizer, str]:
    """The tokenizer in a model folder and the sha256 of its file."""
    data = (folder / "tokenizer.model").read_bytes()
    return load_tokenizer(folder), hashlib.sha256(data).hexdigest()


def build_text(
    recipe: Recipe, source: Path, out: Path, model: Path, only: set[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Writes the text shards that `only` names (all without it), yielding what their JSON says."""
    tokenizer, sha256 = tokenizer_of(model)
    wanted = [text for text in recipe.texts if only is None or text.name in only]
    split = Split(recipe.texts if wanted else [], source)
    for text in wanted:
        yield from write_text_shards(text, source, out, split, tokenizer, sha256)


def build_chat(
    recipe: Recipe,
    shard: ChatShardRecipe,
    source: Path,
    out: Path,
    model: Path,
    builtin: list[ToolSpec],
    calculate: Callable[[str], str],
) -> dict[str, Any]:
    """Writes one conversations shard; returns what its JSON says."""
    tokenizer, sha256 = tokenizer_of(model)
    facts = {
        "tokenizer_sha256": sha256,
        "licence": "; ".join(dict.fromkeys(one.licence for one in shard.sources)),
        "source": "; ".join(one.source for one in shard.sources),
    }
    context = Context(
        random.Random(f"{recipe.seed}:{shard.name}"),
        builtin,
        distractors(recipe, source),
        calculate,
    )
    conversations = convert(shard, source, context)
    return write_chat_shard(
        shard.name, conversations, list(shard.max_tokens), tokenizer, out, facts
    )


def convert(shard: ChatShardRecipe, source: Path, context: Context) -> Iterator[Conversation]:
    """All conversations of a shard's sources. Raises ConfigError if a needed file is missing."""
    for one in shard.sources:
        path = source / one.path
        if not path.is_file():
            if one.optional:
                continue
            raise ConfigError(f"{path}: no such source file; check the data recipe or --source.")
        yield from itertools.islice(KINDS[one.kind](path, context), one.limit)


def distractors(recipe: Recipe, source: Path) -> list[ToolSpec]:
    """Real tools, short ones, that are declared where nobody needs them."""
    found: dict[str, ToolSpec] = {}
    for row in recipe.distractors:
        for spec in read_tools(source / row["path"], row.get("member", "*.json")):
            name = spec["function"]["name"]
            if len(compact(spec)) <= LONGEST_DISTRACTOR and "." not in name:
                found.setdefault(name, spec)
    return list(found.values())


def write_manifest(out: Path) -> list[dict[str, Any]]:
    """SHARDS.json: what every NAME.json in the folder says, in one file."""
    files = sorted(path for path in out.glob("*.json") if path.name != MANIFEST)
    shards = [json.loads(path.read_text()) for path in files]
    (out / MANIFEST).write_text(json.dumps(shards, indent=1) + "\n")
    return shards

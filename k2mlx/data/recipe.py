"""A data recipe (`data.toml`): which sources become which shards, and the vocabulary."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2mlx.data import chats, sgd, tool_chats
from k2mlx.data.context import Context
from k2mlx.data.corpus import TextSource
from k2mlx.data.sample import SamplePart
from k2mlx.data.schema import Conversation, read_conversations
from k2mlx.errors import ConfigError
from k2mlx.fields import build, read_toml


def jsonl(path: Path, context: Context) -> Iterator[Conversation]:
    """Conversations in our own form, such as `k2mlx synth` writes."""
    return read_conversations(path)


Convert = Callable[[Path, Context], Iterator[Conversation]]
KINDS: dict[str, Convert] = {
    "jsonl": jsonl,
    "byu": chats.byu,
    "dialogue": chats.dialogue,
    "topical": chats.topical,
    "chatterbot": chats.chatterbot,
    "selfinstruct": chats.selfinstruct,
    "trivia": chats.trivia,
    "sgd": sgd.sgd,
    "gsm8k": tool_chats.gsm8k,
    "metatool": tool_chats.metatool,
}


@dataclass(frozen=True)
class ChatSource:
    """One file of dialogues; at most `limit` conversations of it, in its order."""

    kind: str
    path: str
    licence: str
    source: str
    limit: int | None = None
    optional: bool = False  # a file that may not be there, such as one another command writes


@dataclass(frozen=True)
class ChatShardRecipe:
    """A shard of conversations. Each draws its limit of tokens from `max_tokens`."""

    name: str
    sources: tuple[ChatSource, ...]
    max_tokens: tuple[int, ...] = (1536,)


@dataclass(frozen=True)
class Recipe:
    texts: tuple[TextSource, ...]
    chats: tuple[ChatShardRecipe, ...]
    vocabulary_size: int = 8192
    vocabulary: tuple[SamplePart, ...] = ()
    seed: int = 0
    distractors: tuple[dict[str, str], ...] = field(default=())


def read_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe. Raises ConfigError that names the table and the key."""
    table = read_toml(path, "models/k2-nano/data.toml")
    _known(table, {"seed", "text", "chat", "vocabulary", "distractors"}, str(path))
    texts = [build(TextSource, row, f"{path}: text.") for row in table.get("text", [])]
    shards = [_chat_shard(row, f"{path}: chat") for row in table.get("chat", [])]
    names = [row.name for row in [*texts, *shards]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{path}: shard names {repeated} come more than once; rename one.")
    vocabulary = table.get("vocabulary", {})
    _known(vocabulary, {"size", "part"}, f"{path}: vocabulary")
    where = f"{path}: vocabulary.part."
    return Recipe(
        tuple(texts),
        tuple(shards),
        vocabulary.get("size", 8192),
        tuple(build(SamplePart, row, where) for row in vocabulary.get("part", [])),
        table.get("seed", 0),
        tuple(table.get("distractors", [])),
    )


def _chat_shard(row: dict[str, Any], where: str) -> ChatShardRecipe:
    _known(row, {"name", "source", "max_tokens"}, where)
    name = row.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: expected a name, got {name!r}.")
    sources = [build(ChatSource, one, f"{where} {name}.source.") for one in row.get("source", [])]
    for source in sources:
        if source.kind not in KINDS:
            raise ConfigError(
                f"{where} {name}: expected a kind out of {', '.join(KINDS)}, got {source.kind!r}."
            )
    return ChatShardRecipe(name, tuple(sources), tuple(row.get("max_tokens", [1536])))


def _known(row: dict[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(set(row) - keys)
    if unknown:
        raise ConfigError(f"{where}: unknown keys {unknown}; wanted some of {sorted(keys)}.")

"""Turn text and conversations into training shards, and look into them.

`build` reads a recipe (data.toml) and writes one shard a source: NAME.bin, NAME.json and, for
conversations, NAME.loss.bin and NAME.idx. It trains the vocabulary first if the model folder has
none. `preview` prints a shard; what the model is to learn is marked.

Example:
  k2mlx data build models/k2-nano/data.toml --source ~/data --out runs/shards
  k2mlx data preview runs/shards/chats --count 3
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from k2mlx.errors import ConfigError

LEARNED = ("\033[32m", "\033[0m")
LEARNED_PLAIN = ("⟦", "⟧")


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="build|preview")
    build = commands.add_parser("build", help="write the shards of a recipe")
    build.add_argument("config", type=Path, metavar="CONFIG.toml", help="the recipe")
    build.add_argument("--source", type=Path, required=True, help="folder of the source files")
    build.add_argument("--out", type=Path, required=True, help="folder to write the shards to")
    build.add_argument(
        "--model", type=Path, help="folder with tokenizer.model (default: where the recipe is)"
    )
    build.add_argument("--only", nargs="+", metavar="NAME", help="only these shards")
    build.add_argument(
        "--chat",
        action="append",
        default=[],
        metavar="NAME=FILE.jsonl",
        help="one more shard of conversations, such as 'k2mlx synth' wrote",
    )
    build.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")
    build.add_argument("--json", action="store_true", help="print one JSON object")
    preview = commands.add_parser("preview", help="print a shard's text, learned tokens marked")
    preview.add_argument("shard", type=Path, metavar="FOLDER/NAME")
    preview.add_argument("--count", type=int, default=2, help="how many (default 2)")
    preview.add_argument("--first", type=int, default=0, help="the first one's number")
    preview.add_argument("--model", default="models/k2-nano", help="whose tokenizer to use")


def run(args: argparse.Namespace) -> int | None:
    return build(args) if args.action == "build" else preview(args)


def build(args: argparse.Namespace) -> None:
    from k2mlx.data.build import learn_vocabulary, write_manifest
    from k2mlx.data.recipe import read_recipe

    recipe = with_chats(read_recipe(args.config), args.chat)
    model = args.model or args.config.parent
    names = [row.name for row in [*recipe.texts, *recipe.chats]]
    for name in args.only or ():
        if name not in names:
            raise ConfigError(f"--only {name}: the recipe has no such shard; got {names}.")
    args.out.mkdir(parents=True, exist_ok=True)
    if not (model / "tokenizer.model").is_file():
        print(f"learning a vocabulary of {recipe.vocabulary_size}", file=sys.stderr)
        learn_vocabulary(recipe, args.source, model / "tokenizer.model", builtin_specs())
    started, shards = time.perf_counter(), []
    for facts in build_shards(recipe, args, model):
        shards.append(facts)
        print(line(facts), file=sys.stderr if args.json else sys.stdout, flush=True)
    write_manifest(args.out)
    if args.json:
        seconds = round(time.perf_counter() - started, 1)
        print(json.dumps({"out": str(args.out), "seconds": seconds, "shards": shards}))


def build_shards(recipe: Any, args: argparse.Namespace, model: Path) -> Iterator[dict[str, Any]]:
    """What each shard's JSON says, text first, as they get done."""
    only = set(args.only) if args.only else None
    wanted = [shard for shard in recipe.chats if only is None or shard.name in only]
    wanted = [shard for shard in wanted if is_there(shard, args.source)]
    # Not fork: the parent may hold threads (BLAS, MLX) that a copy would wait for in vain.
    with ProcessPoolExecutor(max(1, args.jobs), get_context("spawn")) as pool:
        texts = pool.submit(text_job, recipe, args.source, args.out, model, only)
        jobs = [
            pool.submit(chat_job, recipe, shard, args.source, args.out, model) for shard in wanted
        ]
        yield from texts.result()
        for job in jobs:
            yield job.result()


def is_there(shard: Any, source: Path) -> bool:
    """Whether any of the files of a shard that may be left out exists; says so if not."""
    if not all(one.optional for one in shard.sources):
        return True
    if any((source / one.path).is_file() for one in shard.sources):
        return True
    path = source / shard.sources[0].path
    print(f"{shard.name}: left out, there is no {path}; --chat names another", file=sys.stderr)
    return False


def text_job(recipe: Any, source: Path, out: Path, model: Path, only: set[str] | None) -> list:
    from k2mlx.data.build import build_text

    return list(build_text(recipe, source, out, model, only))


def chat_job(recipe: Any, shard: Any, source: Path, out: Path, model: Path) -> dict[str, Any]:
    from k2mlx.data.build import build_chat

    return build_chat(recipe, shard, source, out, model, builtin_specs(), calculate)


def builtin_specs() -> list[dict[str, Any]]:
    from k2mlx.agent.tools import BUILTIN

    return [tool.spec for tool in BUILTIN.values()]


def calculate(expression: str) -> str:
    from k2mlx.agent.tools import BUILTIN

    return BUILTIN["calculator"].run({"expression": expression})


def with_chats(recipe: Any, extra: list[str]) -> Any:
    """The recipe with `NAME=FILE` shards of our own form; one of the same name gives way."""
    import dataclasses

    from k2mlx.data.recipe import ChatShardRecipe, ChatSource

    shards = {shard.name: shard for shard in recipe.chats}
    for text in extra:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ConfigError(f"--chat {text}: wanted NAME=FILE.jsonl.")
        old = shards.get(name)
        source = ChatSource(
            "jsonl",
            str(Path(file).resolve()),
            old.sources[0].licence if old else "as given",
            old.sources[0].source if old else file,
        )
        limits = old.max_tokens if old else (1536,)
        shards[name] = ChatShardRecipe(name, (source,), limits)
    return dataclasses.replace(recipe, chats=tuple(shards.values()))


def line(facts: dict[str, Any]) -> str:
    count = facts.get("documents", facts.get("conversations"))
    more = ""
    if facts["kind"] == "chat":
        more = (
            f", {facts['learned_tokens']:,} learned, {facts['left_out']} left out, "
            f"{facts['duplicates']} duplicates"
        )
    return f"{facts['name']:28} {facts['tokens']:>12,} tokens in {count:,}{more}"


def preview(args: argparse.Namespace) -> None:
    from k2mlx.data.shards import ChatShard, TextShard
    from k2mlx.home import find_model
    from k2mlx.tokenizer import load_tokenizer

    facts_file = args.shard.with_name(args.shard.name + ".json")
    if not facts_file.is_file():
        raise ConfigError(f"{facts_file}: no such shard; give FOLDER/NAME without a suffix.")
    facts = json.loads(facts_file.read_text())
    tokenizer = load_tokenizer(find_model(args.model))
    for number in range(args.first, args.first + args.count):
        print(f"--- {facts['name']} {number}")
        if facts["kind"] == "chat":
            shard = ChatShard.read(args.shard)
            if number >= len(shard.offsets) - 1:
                raise ConfigError(f"{args.shard}: has only {len(shard.offsets) - 1} conversations.")
            part = slice(*shard.offsets[number : number + 2])
            print(marked(shard.tokens[part].tolist(), shard.loss[part].tolist(), tokenizer))
        else:
            tokens = TextShard.read(args.shard).tokens
            print(tokenizer.decode(tokens[number * 200 : number * 200 + 200].tolist()))


def marked(tokens: list[int], learn: list[int], tokenizer: Any) -> str:
    """The text with the runs of learned tokens in green, or in brackets when not on a terminal."""
    opening, closing = LEARNED if sys.stdout.isatty() else LEARNED_PLAIN
    text, run = "", 0
    for at in range(1, len(tokens) + 1):
        if at == len(tokens) or learn[at] != learn[run]:
            piece = tokenizer.decode(tokens[run:at])
            text += opening + piece + closing if learn[run] else piece
            run = at
    return text

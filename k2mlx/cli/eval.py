"""Measure a model: its tool calls, its grip on text, and how it talks.

  tools   our held-out questions for calculator, clock and convert_units, and turns that need none
  calls   any set in JSONL: {"id", "messages", "tools", "gold": [{"name", "arguments": {"arg":
          [accepted values]}}], "order": bool}; matched as BFCL's AST check does
  text    bits per byte of the held-out documents in a folder of shards, each source by itself
  chat    unedited chats of three turns without tools, the user's lines drawn by seed
  precision  what each part of the model costs in 8, 6 and 4 bits: KL to floating point over a text
  cache   what the latent cache costs in 8 bits: bytes, KL over a text, numbers asked back from it
  overlap how much of the held-out questions and documents stands in training shards after all

Answers of tools and calls are greedy unless --temperature says otherwise. Progress goes to standard
error.

Example:
  k2mlx eval tools --model models/k2-nano
  k2mlx eval calls cases.jsonl --model models/k2-nano --json
  k2mlx eval text --model models/k2-nano --data runs/shards --max-tokens 70000
  k2mlx eval chat --model models/k2-nano --seed 1 --count 20
  k2mlx eval precision --model models/k2-nano --file models/k2-nano/README.md
  k2mlx eval cache --model models/k2-nano --file models/k2-nano/README.md
  k2mlx eval overlap --data runs/shards
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from k2mlx.errors import RequestError
from k2mlx.home import find_model

if TYPE_CHECKING:
    from k2mlx.generate.engine import Engine
    from k2mlx.generate.sampling import Sampling

WHAT = "tools|calls|text|chat|precision|cache|overlap"
SHOWN_FAILURES = 20


class Outcome(Protocol):
    """What the evaluations of tool calls give for a case."""

    def to_json(self) -> dict[str, Any]: ...


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="what", required=True, metavar=WHAT)
    tools = commands.add_parser("tools", help="our held-out tool questions")
    calls = commands.add_parser("calls", help="a function-calling set in JSONL")
    text = commands.add_parser("text", help="bits per byte of held-out text")
    chat = commands.add_parser("chat", help="unedited chats, to be read")
    overlap = commands.add_parser("overlap", help="what is held out and stands in training data")
    precision = commands.add_parser("precision", help="what each part costs in fewer bits")
    cache = commands.add_parser("cache", help="what the latent cache costs in 8 bits")
    calls.add_argument("file", metavar="FILE", help="JSONL, one case a line")
    for command in (tools, calls, text, chat, precision, cache, overlap):
        command.add_argument(
            "--model", default="models/k2-nano", help="folder or name (default: %(default)s)"
        )
        command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    for command in (tools, calls):
        command.add_argument("--limit", type=int, metavar="N", help="only the first N cases")
        command.add_argument("--out", metavar="FILE", help="write every case's outcome as JSONL")
        command.add_argument(
            "-v", "--verbose", action="store_true", help=f"show up to {SHOWN_FAILURES} failures"
        )
        _sampling_arguments(command, temperature=0.0, max_tokens=512, of="case")
    chat.add_argument("--count", type=int, default=20, help="how many (default: %(default)s)")
    _sampling_arguments(chat, temperature=0.6, max_tokens=256, of="turn")
    text.add_argument("--data", type=Path, required=True, help="folder of 'k2mlx data build'")
    text.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="read at most N tokens of a source, the beginning of each document (default: all)",
    )
    for command in (precision, cache):
        command.add_argument("--file", type=Path, required=True, help="text to compare on")
        command.add_argument("--max-tokens", type=int, default=4096, help="default: %(default)s")
    cache.add_argument("--count", type=int, default=24, help="needles (default: %(default)s)")
    cache.add_argument(
        "--length", type=int, default=1024, help="tokens around a needle (default: %(default)s)"
    )
    overlap.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of 'k2mlx data build'"
    )


def _sampling_arguments(
    command: argparse.ArgumentParser, temperature: float, max_tokens: int, of: str
) -> None:
    add = command.add_argument
    add("--temperature", type=float, default=temperature, help="0 is greedy (default: %(default)s)")
    add("--seed", type=int, default=0, help=f"of the first {of}; each next one adds 1 (default: 0)")
    add("--max-tokens", type=int, default=max_tokens, help="of one answer (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    _check(args)
    path = find_model(args.model)
    runs = {
        "tools": _run_tools,
        "calls": _run_calls,
        "text": _run_text,
        "chat": _run_chat,
        "precision": _run_precision,
        "cache": _run_cache,
        "overlap": _run_overlap,
    }
    runs[args.what](args, path)


def _check(args: argparse.Namespace) -> None:
    counted = "needles" if args.what == "cache" else "chats"
    for name, unit in (("limit", "cases"), ("count", counted)):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise RequestError(f"--{name}: got {value}, wanted 1 or more {unit}")
    if hasattr(args, "temperature"):
        _sampling(args, 0)
    elif hasattr(args, "max_tokens") and args.max_tokens is not None and args.max_tokens < 2:
        raise RequestError(f"--max-tokens: got {args.max_tokens}, wanted 2 or more")


def _run_precision(args: argparse.Namespace, path: Path) -> None:
    from dataclasses import asdict

    import mlx.core as mx

    from k2mlx.config import QuantSpec
    from k2mlx.eval.precision import Cost, measure
    from k2mlx.load import load

    forms: dict[str, QuantSpec | None] = {"bf16": None}
    forms |= {f"q{bits}:{size}": QuantSpec(bits, size) for bits in (8, 6, 4) for size in (64, 32)}
    forms["int4"] = QuantSpec(4, 32, "symmetric")
    text = _read_text(args.file)
    say = sys.stderr if args.json else sys.stdout
    print(f"{'part':16}{'form':>7}{'KL nats/token':>15}{'largest':>10}{'flips':>9}", file=say)

    def show(cost: Cost) -> None:
        row = f"{cost.part:16}{cost.form:>7}{cost.kl:>15.2e}{cost.largest:>10.1e}"
        print(f"{row}{cost.flips:>9.2%}", file=say, flush=True)

    costs = measure(load(path, mx.float32, as_stored=True), text, forms, args.max_tokens, show)
    if args.json:
        print(json.dumps({"model": str(path), "costs": [asdict(cost) for cost in costs]}))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{file}: not UTF-8, wanted a text file") from None


def _run_cache(args: argparse.Namespace, path: Path) -> None:
    from dataclasses import asdict

    from k2mlx.eval import cache_bits
    from k2mlx.load import load

    text = _read_text(args.file)
    costs = cache_bits.measure(load(path), text, args.max_tokens, args.count, args.length)
    if args.json:
        print(json.dumps({"model": str(path), "costs": [asdict(cost) for cost in costs]}))
    else:
        print(cache_bits.table(costs))


def _run_tools(args: argparse.Namespace, path: Path) -> None:
    from k2mlx.agent.loop import run_turn
    from k2mlx.eval import tools
    from k2mlx.eval.questions import read_questions

    cases = _first(read_questions(), args.limit, balanced=lambda case: case["kind"])
    with _engine(path) as engine, _progress(len(cases)) as tick:

        def turn(messages: list, builtin: dict, number: int):
            sampling = _sampling(args, number)
            return run_turn(engine, messages, builtin, sampling, tools.MAX_ROUNDS)

        outcomes = tools.evaluate(cases, turn, tick)
    figures = tools.summary(outcomes)
    figures |= {"questions_sha256": tools.questions_hash(), **_setting(args)}
    failures = [outcome for outcome in outcomes if not outcome.right]
    _report(args, figures, tools.table(figures), outcomes, [_tools_failure(o) for o in failures])


def _run_calls(args: argparse.Namespace, path: Path) -> None:
    from k2mlx.eval import calls
    from k2mlx.generate.chat import stream_chat

    cases = _first(calls.read_cases(args.file), args.limit)
    numbers = iter(range(len(cases)))
    with _engine(path) as engine, _progress(len(cases)) as tick:

        def ask(messages: list, tools: list):
            return stream_chat(engine, messages, tools, _sampling(args, next(numbers)))

        outcomes = calls.evaluate(cases, ask, tick)
    figures = calls.summary(outcomes) | _setting(args)
    rows = [
        f"{kind:10}{row['n']:>6}{row['accuracy']:>10.1%}"
        for kind, row in figures["by_calls"].items()
    ]
    rows.append(f"{'all':10}{figures['n']:>6}{figures['accuracy']:>10.1%}")
    failures = [f"{o.case.id}: {o.problem}" for o in outcomes if o.problem]
    _report(args, figures, "\n".join(rows), outcomes, failures)


def _run_text(args: argparse.Namespace, path: Path) -> None:
    from k2mlx.eval import text
    from k2mlx.load import load

    names = text.held_out_sources(args.data, path)
    with _progress(len(names), "sources") as tick:
        sources = text.evaluate(load(path), args.data, names, args.max_tokens, tick)
    figures = {"sources": {one.name: one.to_json() for one in sources}}
    figures |= {"model": args.model, "max_tokens": args.max_tokens}
    print(json.dumps(figures) if args.json else text.table(sources))


def _run_chat(args: argparse.Namespace, path: Path) -> None:
    from k2mlx.eval import chat
    from k2mlx.generate.chat import stream_chat

    with _engine(path) as engine, _progress(args.count, "chats") as tick:

        def ask(messages: list, number: int):
            return stream_chat(engine, messages, [], _sampling(args, number))

        chats = chat.talk(args.seed, args.count, ask, tick)
    setting = _setting(args) | {"max_tokens": args.max_tokens, "count": args.count}
    if args.json:
        print(json.dumps({**setting, "chats": chats}))
    else:
        print(f"# {' '.join(f'{name}={value}' for name, value in setting.items())}, unedited\n")
        print(chat.transcript(chats))


def _run_overlap(args: argparse.Namespace, path: Path) -> None:
    from k2mlx.eval import overlap
    from k2mlx.eval.questions import read_questions
    from k2mlx.tokenizer import load_tokenizer

    tokenizer, words = load_tokenizer(path), overlap.Words()
    shards = overlap.training_shards(args.data)
    questions = overlap.question_texts(read_questions())
    wanted = [
        overlap.texts_to_find("tool questions", questions, words),
        *overlap.held_out_texts(args.data, tokenizer, words),
    ]
    with _progress(len(shards), "shards") as tick:
        for shard in shards:
            overlap.find(wanted, overlap.read_shard(shard, tokenizer), words)
            tick(shard)
    figures = {texts.name: texts.to_json() for texts in wanted}
    print(json.dumps(figures) if args.json else overlap.table(wanted))


def _first(cases: list, limit: int | None, balanced: Callable[[Any], str] | None = None) -> list:
    """The first `limit` cases; with `balanced`, in equal parts of each kind."""
    if limit is None or not balanced:
        return cases[:limit]
    kinds: dict[str, list] = {}
    for case in cases:
        kinds.setdefault(balanced(case), []).append(case)
    ranked = [(place, case) for group in kinds.values() for place, case in enumerate(group)]
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])][:limit]


def _sampling(args: argparse.Namespace, number: int) -> Sampling:
    from k2mlx.generate.sampling import Sampling

    return Sampling(
        temperature=args.temperature, seed=args.seed + number, max_tokens=args.max_tokens
    )


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    return {"model": args.model, "temperature": args.temperature, "seed": args.seed}


@contextmanager
def _engine(path: Path) -> Generator[Engine]:
    from k2mlx.generate.engine import Engine
    from k2mlx.load import load

    with Engine(lambda: load(path)) as engine:
        yield engine


@contextmanager
def _progress(total: int, what: str = "cases") -> Generator[Callable[[Any], None]]:
    """A counter on standard error: a line that rewrites itself, or a line in ten on a log."""
    begun, done, live = time.monotonic(), 0, sys.stderr.isatty()

    def tick(_: Any) -> None:
        nonlocal done
        done += 1
        seconds = time.monotonic() - begun
        left = seconds / done * (total - done)
        line = f"{done}/{total} {what}, {seconds:.0f} s, about {left:.0f} s left"
        if live:
            print(f"\r{line:60}", end="", file=sys.stderr, flush=True)
        elif done == total or done * 10 // total > (done - 1) * 10 // total:
            print(line, file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if live and done:
            print(file=sys.stderr)


def _tools_failure(outcome: Any) -> str:
    case = outcome.case
    gold = json.dumps(case["gold"], ensure_ascii=False) if case["gold"] else "no call"
    calls = " ".join(f"{name}({arguments})" for name, arguments in outcome.calls) or "no call"
    lines = [case["messages"][-1]["content"], f"wanted {gold}", f"made   {calls}"]
    if case["answer"]:
        lines.append(f"wanted to read {case['answer'][0]!r}")
    lines.append(f"said   {outcome.text!r}")
    return f"{case['id']}: " + "\n    ".join(lines)


def _report(
    args: argparse.Namespace,
    figures: dict[str, Any],
    shown: str,
    outcomes: Sequence[Outcome],
    failures: list[str],
) -> None:
    if args.out:
        lines = [json.dumps(outcome.to_json(), ensure_ascii=False) for outcome in outcomes]
        Path(args.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Standard output holds nothing but the object when one was asked for.
    if args.verbose:
        for failure in failures[:SHOWN_FAILURES]:
            print(failure, file=sys.stderr)
        if len(failures) > SHOWN_FAILURES:
            print(f"... and {len(failures) - SHOWN_FAILURES} more (see --out)", file=sys.stderr)
    print(json.dumps(figures) if args.json else shown)

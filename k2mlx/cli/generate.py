"""Answer one prompt, printing the text as it comes.

The prompt is one user message of a chat; with --raw it is plain text that the model continues.
What the model reasons, and tool calls, which nobody runs here, go to standard error.

Example:
  k2mlx generate --prompt "What is the capital of France?"
  k2mlx generate --raw --prompt "Once upon a time" --max-tokens 60 --seed 1
  k2mlx generate --model models/k2-nano --prompt - --temperature 0 --json < question.txt
  k2mlx generate --prefix-cache --prompt - < long.txt    the second time it is not read again
  mlx.launch -n 2 -- python -m k2mlx generate --prompt "Hello"    two ranks on one machine
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from k2mlx.cli import prefix, ranks
from k2mlx.errors import RequestError

if TYPE_CHECKING:
    from k2mlx.generate import ChatStream, Engine, Generation, Stats

CHUNK = 512
BAR = 30


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `k2mlx generate`."""

    def option(name: str, kind: Any, default: Any, metavar: str, text: str) -> None:
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=text + shown)

    option("--model", str, "models/k2-nano", "PATH", "model folder, or a bundled model's name")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="- reads standard input")
    parser.add_argument("--system", metavar="TEXT", help="system message before the prompt")
    parser.add_argument("--raw", action="store_true", help="continue plain text, without a chat")
    option("--max-tokens", int, 512, "N", "at most this many tokens")
    option("--temperature", float, 0.6, "T", "0 takes the likeliest token each time")
    option("--top-p", float, 1.0, "P", "choose among the likeliest that hold this probability")
    option("--top-k", int, 0, "K", "choose among the K likeliest; 0 for all")
    option("--min-p", float, 0.0, "P", "drop tokens less likely than P times the likeliest")
    option("--seed", int, None, "N", "the same seed gives the same text")
    parser.add_argument(
        "--speculate",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="guess repeated text and check several tokens at once where that saves time; the"
        " tokens are the same but for ties within rounding (default: off)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    prefix.arguments(parser, default=False)
    ranks.arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Load, answer, print."""
    prompt = _prompt(args)
    from k2mlx.generate import Sampling
    from k2mlx.home import find_model

    sampling = Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        seed=args.seed,
        max_tokens=args.max_tokens,
    )
    path = find_model(args.model)
    bar = ProgressBar(sys.stderr) if sys.stderr.isatty() else None
    options = {"speculate": args.speculate, **prefix.engine_options(args)}
    with ranks.engine(args, path, chunk=CHUNK, **options) as engine:
        if engine is None:
            return
        if args.raw:
            answer = engine.submit(engine.tokenizer.encode(prompt), sampling, bar)
            pieces = _raw_pieces(engine, answer)
        else:
            answer = _ask(engine, prompt, args.system, sampling, bar)
            pieces = _chat_pieces(answer)
        text = _print(pieces, None if args.json else sys.stdout)
        if args.json:
            print(json.dumps(_report(engine, text, answer.stats), ensure_ascii=False))
        elif bar:
            print(_summary(answer.stats), file=sys.stderr)


def _prompt(args: argparse.Namespace) -> str:
    prompt = args.prompt
    if prompt == "-":
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"standard input: byte {error.start} is not UTF-8, wanted text; convert it first"
            ) from error
    if not (prompt if args.raw else prompt.strip()):
        raise RequestError("--prompt: got nothing, wanted some text; write a question")
    if args.raw and args.system is not None:
        raise RequestError("--system: got one with --raw, which has no chat; leave out one of them")
    return prompt


def _ask(engine: "Engine", prompt: str, system: str | None, *rest: Any) -> "ChatStream":
    from k2mlx.generate import stream_chat

    sampling, progress = rest
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    return stream_chat(engine, messages, None, sampling, on_progress=progress)


def _chat_pieces(answer: "ChatStream") -> Iterator[tuple[bool, str]]:
    """(whether it is the answer's text, text) as it comes."""
    from k2mlx.chat import CallEnd, Reasoning, Text

    for event in answer:
        match event:
            case Text(text):
                yield True, text
            case Reasoning(text):
                yield False, text
            case CallEnd(name=name, arguments=arguments):
                yield False, f"[call of {name or 'an unnamed tool'}: {arguments}]\n"


def _raw_pieces(engine: "Engine", answer: "Generation") -> Iterator[tuple[bool, str]]:
    from k2mlx.tokenizer import ByteStream

    stream, tokenizer = ByteStream(), engine.tokenizer
    for token in answer:
        yield True, stream.push(tokenizer.token_bytes(token))
    yield True, stream.flush()


def _print(pieces: Iterator[tuple[bool, str]], out: TextIO | None) -> str:
    """Print the answer to `out` as it comes, the rest to standard error; returns the answer."""
    parts = []
    for is_answer, text in pieces:
        if is_answer:
            parts.append(text)
        if to := out if is_answer else sys.stderr:
            to.write(text)
            to.flush()
    if out is not None:
        out.write("\n")
    return "".join(parts)


def _report(engine: "Engine", text: str, stats: "Stats") -> dict[str, Any]:
    """What --json prints. Units: seconds, bytes."""
    return {
        "text": text,
        "finish_reason": stats.finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "disk_tokens": stats.disk_tokens,
        "completion_tokens": stats.completion_tokens,
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
        "first_token_seconds": stats.first_token_seconds,
        "seconds": stats.seconds,
        "prompt_tokens_per_second": stats.prompt_tokens_per_second,
        "generation_tokens_per_second": stats.tokens_per_second,
        "peak_memory": stats.peak_memory,
        "seed": stats.seed,
        "model": engine.info.name,
        "device": engine.info.device,
    }


def _summary(stats: "Stats") -> str:
    drafted, cached = stats.drafted_tokens, ""
    guessed = f" {stats.accepted_tokens} of {drafted} guesses right;" if drafted else ""
    if stats.cached_tokens:
        disk = f", {stats.disk_tokens} of them on disk" if stats.disk_tokens else ""
        cached = f" ({stats.cached_tokens} kept from before{disk})"
    return (
        f"[prompt {stats.prompt_tokens} tokens{cached}, {stats.prompt_tokens_per_second:.0f}/s;"
        f" answer {stats.completion_tokens} tokens, {stats.tokens_per_second:.0f}/s;{guessed}"
        f" {stats.peak_memory / 1e6:.0f} MB at most]"
    )


class ProgressBar:
    """Shows how much of a long prompt has been read; called on the engine's thread.

    Prompts of one chunk are over before a bar is of use.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, done: int, total: int) -> None:
        """Draw, or wipe out once the prompt is read."""
        if total <= CHUNK:
            return
        if done >= total:
            self._out.write("\r\x1b[K")
        else:
            filled = BAR * done // total
            bar = "#" * filled + "." * (BAR - filled)
            self._out.write(f"\rreading the prompt [{bar}] {done}/{total} tokens")
        self._out.flush()

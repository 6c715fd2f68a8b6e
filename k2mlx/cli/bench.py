"""Measure k2mlx against mlx-lm: the same weights, each in its own process, rounds in turn.

Prints one JSON object a line: `case` (prefill, decode, memory) and `ratio`, above 1 where k2mlx is
better, beside both medians, all rounds, versions and settings. `agree` says whether both computed
the same logits before the clock ran.

Example:
  k2mlx bench --model models/k2-nano --against mlx-lm
  k2mlx bench --prompt-tokens 1024 --generate 64 --rounds 7
"""

import argparse
import json
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `k2mlx bench`."""

    def option(name: str, default: int, text: str) -> None:
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{text} ({default})"
        )

    parser.add_argument(
        "--model", default="models/k2-nano", metavar="PATH", help="default: %(default)s"
    )
    parser.add_argument("--against", default="mlx-lm", choices=["mlx-lm"], help="the other engine")
    option("--prompt-tokens", 512, "tokens of the prompt")
    option("--generate", 128, "tokens of the answer")
    option("--rounds", 5, "timed rounds of each")
    option("--chunk", 512, "prompt tokens computed at a time, by both")
    parser.add_argument("--json", action="store_true", help="no difference: it is always JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print; 1 when the two do not compute the same."""
    from k2mlx.bench import Plan, compare
    from k2mlx.config import ModelConfig
    from k2mlx.errors import RequestError
    from k2mlx.home import find_model
    from k2mlx.tokenizer import load_tokenizer

    plan = Plan(args.prompt_tokens, args.generate, args.rounds, args.chunk)
    path = find_model(args.model)
    config = ModelConfig.load(path)
    if plan.prompt + plan.generate > config.max_position_embeddings:
        raise RequestError(
            f"got {plan.prompt} tokens of prompt and {plan.generate} to generate, the context is"
            f" {config.max_position_embeddings}; lower --prompt-tokens or --generate"
        )

    def on_round(number: int, side: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[Kround {number} of {plan.rounds}: {side}", end="", file=sys.stderr)

    rows = list(compare(path.resolve(), plan, load_tokenizer(path).vocab_size, on_round))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    for row in rows:
        print(json.dumps(row))
    if not all(row["agree"] for row in rows):
        print("k2mlx: the two engines do not compute the same logits", file=sys.stderr)
        return 1
    return 0

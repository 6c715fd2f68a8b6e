"""Verify a model folder, before it is loaded or after it was fetched or converted.

Config, index, header bounds, every tensor's name and shape, what quantisation the config claims,
hashes where a manifest holds them, NaN and infinity, and whether tokenizer and chat template are
the model's and ours. --quick reads headers only. Exits 1 when something is wrong.

Example:
  k2mlx check models/k2-nano
  k2mlx check ~/models/Kimi-K2-Thinking --quick
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2mlx.weights.check import Finding


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder or name of a model")
    parser.add_argument("--quick", action="store_true", help="read headers, not values")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    import sys

    from k2mlx.cli.progress import Report
    from k2mlx.home import find_model
    from k2mlx.weights.check import check_weights

    folder = find_model(args.model)
    say = sys.stderr if args.json else sys.stdout
    found = []
    checks = check_weights(folder, deep=not args.quick, report=Report("read"))
    for findings in (checks, _check_tokenizer(folder), _check_template(folder)):
        for finding in findings:
            found.append(finding)
            mark = {True: "ok   ", False: "WRONG", None: "-    "}[finding.ok]
            print(f"{mark} {finding.what:20} {_printable(finding.note)}", file=say)
    wrong = sum(finding.ok is False for finding in found)
    print(f"{wrong} of {len(found)} checks failed" if wrong else f"{folder} is whole", file=say)
    if args.json:
        print(json.dumps({"ok": not wrong, "checks": [asdict(f) for f in found]}))
    return 1 if wrong else 0


def _printable(note: str) -> str:
    """One line, also of names out of a damaged file."""
    return " ".join(note.split()).encode("utf-8", "backslashreplace").decode()


def _check_template(folder: Path) -> Iterator["Finding"]:
    """A template that differs is no fault of the folder's, but a person should know."""
    from k2mlx.chat.template import template_difference
    from k2mlx.config import ModelConfig
    from k2mlx.errors import K2Error
    from k2mlx.weights.check import Finding

    try:
        difference = template_difference(folder, ModelConfig.load(folder).chat_format)
        yield Finding("chat template", None if difference else True, difference or "none, or ours")
    except K2Error as error:
        yield Finding("chat template", False, str(error))


def _check_tokenizer(folder: Path) -> Iterator["Finding"]:
    from k2mlx.config import ModelConfig
    from k2mlx.errors import K2Error
    from k2mlx.load import check_vocabulary
    from k2mlx.tokenizer import load_tokenizer
    from k2mlx.weights.check import Finding

    if not any((folder / name).exists() for name in ("tokenizer.model", "tiktoken.model")):
        yield Finding("tokenizer", None, "none here: the folder loads, and cannot chat")
        return
    try:
        tokenizer = load_tokenizer(folder)
        check_vocabulary(folder, tokenizer, ModelConfig.load(folder))
        yield Finding("tokenizer", True, f"{tokenizer.vocab_size:,} tokens")
    except K2Error as error:
        yield Finding("tokenizer", False, str(error))

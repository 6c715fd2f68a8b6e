"""Turn a model's output into events, one JSON object a line.

The output is text in which markers are spelled out, as a server prints it without skipping special
tokens. Here their spelling is the marker, which is right only for what a model wrote. Events are
reasoning, text, call_begin, argument_delta, call_end and end; end carries the finish reason.
Output that ends within a call counts as cut off there.

Example:
  printf '<think>easy</think>Hi!<|im_end|>' | k2mlx parse --format kimi-k2-thinking
  k2mlx parse --format k2-nano output.txt
"""

import argparse
import json
import sys

from k2mlx.chat import FORMATS, parse_text, reasoning_mode
from k2mlx.cli.render import read_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", required=True, choices=FORMATS, help="chat format")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="text file (default: standard input)"
    )
    parser.add_argument(
        "--no-thinking",
        action="store_true",
        help="the prompt had thinking switched off (kimi-k2.5 then starts with its answer)",
    )


def run(args: argparse.Namespace) -> None:
    text = read_bytes(args.file).decode("utf-8", "replace")
    reasoning = reasoning_mode(args.format, thinking=not args.no_thinking)
    for event in parse_text(text, reasoning=reasoning):
        line = json.dumps(event.to_json(), ensure_ascii=False)
        sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()

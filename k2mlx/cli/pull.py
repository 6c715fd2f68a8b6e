"""Fetch a model's weights: resumed where it stopped, checked against the hub's hashes.

The revision is resolved to a commit first and kept. Only what k2mlx reads is fetched: configs,
tokenizer, chat template, index and *.safetensors; never pickle, never Python. The model is then
--model OWNER/NAME for the other commands. Ctrl-C is safe: the same command goes on.

With --split and --rank, only the shards that this rank's layers lie in; a later pull without them
fetches the rest. HF_TOKEN, HF_ENDPOINT and the proxy variables are honoured.

Example:
  k2mlx pull moonshotai/Kimi-K2-Thinking
  k2mlx pull moonshotai/Kimi-K2-Thinking --split 31,30 --rank 0
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2mlx.hub.pull import Pulled


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="OWNER/NAME", help="the repository on the hub")
    parser.add_argument("--revision", metavar="SHA", help="commit, branch or tag (default: main)")
    parser.add_argument("--split", metavar="N,N", help="layers of every rank, such as 31,30")
    parser.add_argument("--rank", type=int, metavar="R", help="fetch only this rank's part, from 0")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: under $K2MLX_HOME/models)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at once (default: %(default)s)")
    parser.add_argument("--verify", action="store_true", help="hash what is here already, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from k2mlx.cli.plan import parse_split
    from k2mlx.cli.progress import Display
    from k2mlx.hub.pull import Order, pull

    order = Order(
        repo=args.repo,
        revision=args.revision,
        split=tuple(parse_split(args.split)) if args.split is not None else None,
        rank=args.rank,
        out=args.out.expanduser().absolute() if args.out else None,
        jobs=args.jobs,
        verify=args.verify,
    )
    display = Display(sys.stderr)
    try:
        pulled = pull(order, display, note=display.note)
    except KeyboardInterrupt:
        display.close()
        at = f" at {display.line}" if display.line else ""
        print(f"k2mlx: interrupted{at}; the same command goes on", file=sys.stderr)
        return 130
    finally:
        display.close()
    print(json.dumps(vars(pulled), default=str) if args.json else summary(pulled))
    return 0


def summary(pulled: "Pulled") -> str:
    from k2mlx.progress import size_words

    lines = [
        f"{pulled.path}",
        f"{pulled.repo} at {pulled.commit}: {pulled.files} files, {size_words(pulled.bytes)}, "
        f"of which {size_words(pulled.received)} came over the network; all hashes right",
    ]
    if pulled.skipped_files:
        saved = size_words(pulled.skipped_bytes)
        lines.append(f"saved {saved}: {pulled.skipped_files} shards that only other ranks need")
    if pulled.left_over:
        names = " ".join(pulled.left_over)
        lines.append(f"another revision was begun and is not complete: k2mlx models rm {names}")
    return "\n".join(lines)

"""Write conversations that use tools, for training.

Every call of the calculator, the clock and the unit converter is run, so results are real. Calls
and wordings that are held out for evaluation are left out. The same seed writes the same file.

Example: k2mlx synth tools --count 1000 --seed 7 --out tools.jsonl
"""

import argparse
from pathlib import Path

from k2mlx.errors import RequestError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("tools",), help="what to write: tools (all kinds mixed in their shares)"
    )
    parser.add_argument(
        "--count", type=int, default=1000, help="number of conversations (default 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generators (default 0)")
    parser.add_argument(
        "--kind",
        help="only this kind: calculator, clock, units, no_tool, mixed, medley, remarks, schemas"
        " or chat",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.jsonl", help="the file to write"
    )


def run(args: argparse.Namespace) -> int | None:
    from k2mlx.eval.heldout import matches_held_out_template
    from k2mlx.synth import make

    if args.count < 1:
        raise RequestError(f"--count: got {args.count}, wanted at least 1")
    if args.kind and args.kind not in make.KINDS:
        raise RequestError(f"--kind: got {args.kind!r}, wanted one of {', '.join(make.KINDS)}")
    counts = {args.kind: args.count} if args.kind else make.shares(args.count)
    lines = (
        record
        for kind, count in counts.items()
        for record in make.records(kind, count, args.seed, matches_held_out_template)
    )
    written = make.write(lines, args.out)
    print(f"{args.out}: {written} conversations, seed {args.seed}")
    return None

"""Write random weights in the official layout and at an official model's true width.

For proving loaders and measuring layers where the real weights are not: a few layers, every name,
shape and type as in the checkpoint. With --layers 2 (one dense, one of experts) K2's INT4 takes 15
GB, its FP8 22 GB and its bfloat16 40 GB; --vocab 2048 saves 5 GB of that.

Example:
  k2mlx slice /tmp/slice --config kimi-k2-thinking --layers 2 --format int4 --vocab 2048
"""

import argparse
import re
from pathlib import Path

from k2mlx.errors import RequestError


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=Path, metavar="DIR", help="folder to write; must not exist")
    add("--config", required=True, metavar="MODEL", help="whose shape: kimi-k2-thinking, a folder")
    add("--layers", type=int, default=2, help="default: %(default)s")
    add("--format", default="int4", choices=("int4", "fp8", "bf16"), help="default: %(default)s")
    add("--rest", default="bf16", metavar="FORM", help="what is not expert: bf16, q8 or q4")
    add("--vocab", type=int, help="rows of embedding and head (default: all)")
    add("--seed", type=int, default=0, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    from k2mlx.cli.convert import form
    from k2mlx.cli.progress import Report
    from k2mlx.config import QuantSpec
    from k2mlx.fields import MOST
    from k2mlx.home import find_model
    from k2mlx.weights.slice import write_slice

    for option, least in {"layers": 1, "vocab": 1, "seed": 0}.items():
        got = getattr(args, option)
        if got is not None and not least <= got <= MOST:
            raise RequestError(f"--{option}: got {got}, wanted {least} to {MOST}")
    if not re.fullmatch(r"bf16|q[48](:\d+)?", args.rest):
        raise RequestError(f"--rest: got {args.rest!r}, wanted bf16, q8 or q4, such as q8:32")
    rest = form(args.rest, "--rest")
    if rest is not None and args.format != "int4":
        raise RequestError(f"--rest: got {args.rest!r} with --format {args.format}, wanted int4")
    assert rest is None or isinstance(rest, QuantSpec)
    write_slice(
        args.out,
        find_model(args.config),
        layers=args.layers,
        form=args.format,
        rest=rest,
        vocab=args.vocab,
        seed=args.seed,
        report=Report("written"),
    )
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e9:.2f} GB")
    return 0

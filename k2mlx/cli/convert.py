"""Convert a checkpoint to the form in which it is to be run.

Reads Kimi K2's official checkpoints (INT4, FP8, bfloat16) and MLX's, and writes one file a layer:
experts stacked, without biases, or with `--layout mlx` as mlx-lm loads it too. An official INT4
checkpoint runs without conversion; one saves half of the bytes that are not experts'.

Each of --experts, --rest, --embed and --head takes `auto`, `keep`, `bf16`, `int4` (K2's own grid,
experts only) or MLX's `q2` `q3` `q4` `q5` `q6` `q8`, with the inputs that share a scale after a
colon: `q4:32` (64 where none is given). `keep` changes only FP8, which MLX lacks: experts to int4,
the rest to q8:32. `auto` keeps what is quantised; of the rest experts become int4, the embedding
stays, all else becomes q8:32.

The folder appears when it is whole. A run that was stopped goes on when the same command is given
again. Needs memory for the largest stack of a layer, with --jobs for as many.

Example:
  k2mlx convert Kimi-K2-Thinking k2-thinking-q8
  k2mlx convert Kimi-K2-Instruct-0905 k2-0905 --jobs 2
  k2mlx convert models/k2-nano nano-mlx --layout mlx
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from k2mlx.errors import RequestError

if TYPE_CHECKING:
    from k2mlx.config import QuantSpec

KINDS = {"experts": "experts", "rest": "rest", "embed": "embed_tokens", "head": "lm_head"}


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder or name of a model")
    add("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    add("--experts", default="auto", metavar="FORM", help="the routed experts")
    add("--rest", default="auto", metavar="FORM", help="attention, shared experts, dense layers")
    add("--embed", default="auto", metavar="FORM", help="the embedding")
    add("--head", default="auto", metavar="FORM", help="the output matrix")
    add("--layout", default="k2mlx", choices=("k2mlx", "mlx"), help="default: %(default)s")
    add("--jobs", type=int, default=1, help="files converted at a time (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    import time

    from k2mlx.cli.progress import Report, peak_rss
    from k2mlx.home import find_model
    from k2mlx.weights.convert import Options, convert

    if args.jobs < 1:
        raise RequestError(f"--jobs: got {args.jobs}, wanted at least 1")
    forms = {kind: form(getattr(args, name), f"--{name}") for name, kind in KINDS.items()}
    begun = time.monotonic()
    options = Options(**forms, layout=args.layout)
    folder = find_model(args.source)
    out = convert(folder, args.out, options, jobs=args.jobs, report=Report("converted"))
    facts = {
        "out": str(out),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
        "seconds": round(time.monotonic() - begun, 1),
        "peak_rss": peak_rss(),
    }
    if args.json:
        print(json.dumps(facts))
    else:
        print(
            f"{out}: {facts['bytes'] / 1e9:.2f} GB in {facts['seconds']:.0f} s, at most"
            f" {facts['peak_rss'] / 1e9:.1f} GB of memory"
        )
    return 0


def form(text: str, option: str) -> "QuantSpec | str | None":
    """What --experts and the others name; RequestError for anything else."""
    from k2mlx.config import QuantSpec
    from k2mlx.errors import ConfigError
    from k2mlx.weights.convert import AUTO, KEEP
    from k2mlx.weights.matrix import K2_GRID

    if text in (AUTO, KEEP):
        return text
    if text == "bf16":
        return None
    if text == "int4" and option == "--experts":
        return K2_GRID
    if found := re.fullmatch(r"q(\d)(?::(\d+))?", text):
        bits, group = int(found[1]), int(found[2] or 64)
        try:
            return QuantSpec.from_dict({"bits": bits, "group_size": group}, f"{option}: ")
        except ConfigError as error:
            raise RequestError(str(error)) from None
    own = ", int4" if option == "--experts" else ""
    raise RequestError(
        f"{option}: got {text!r}, wanted auto, keep, bf16{own} or one of q2 q3 q4 q5 q6 q8, "
        "such as q4:32"
    )

"""The options of commands that keep what the model has read: in memory, and on disk."""

from __future__ import annotations

import argparse
import re
from typing import Any

UNITS = "KMGTP"
EXAMPLES = "8G, 500M or 1.5T (powers of 1024; 8GB is 8,000,000,000), 0 for none"


def arguments(parser: argparse.ArgumentParser, default: bool) -> None:
    """--prefix-cache and what belongs to it. default: whether it is on."""
    group = parser.add_argument_group("prefix cache: what was read once is not read again")
    group.add_argument(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        help="keep what the model has read of a prompt, also for the next start, in the folder"
        f" cache of $K2MLX_HOME (default: {'on' if default else 'off'})",
    )
    parser.set_defaults(prefix_cache=default)  # given as `default` above, argparse would say it too
    for name, where in (
        ("in memory", "a tenth of what is free once the model is loaded"),
        ("on disk", "20 GB, at most a tenth of what is free"),
    ):
        group.add_argument(
            f"--prefix-cache-{name.split()[1]}",
            type=parse_size,
            metavar="SIZE",
            help=f"at most so much {name}, such as 8G; 0 for none (default: {where})",
        )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the options mean to `Engine`."""
    if not args.prefix_cache:
        return {"reuse": False}
    from k2mlx.generate.memory import PrefixSettings

    settings = PrefixSettings(memory=args.prefix_cache_memory, disk=args.prefix_cache_disk)
    return {"prefix": settings}


def parse_size(text: str) -> int:
    """Bytes: '8G' and '8GiB' are 8 * 2**30, '8GB' 8 * 10**9, '4096' bytes, as GNU's tools read it.

    Raises: argparse.ArgumentTypeError.
    """
    found = re.fullmatch(rf"(\d{{1,15}}(?:\.\d{{1,9}})?)\s*(?:([{UNITS}])(i?B)?|B)?", text, re.I)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a size such as {EXAMPLES}")
    power = UNITS.index(found[2].upper()) + 1 if found[2] else 0
    base = 1000 if (found[3] or "").upper() == "B" else 1024
    return int(float(found[1]) * base**power)

"""List the models on this machine, or remove one.

Lists what came with k2mlx, what `k2mlx pull` fetched and what else lies under $K2MLX_HOME/models:
size on disk, format, revision, and whether it is complete. Only the last two kinds can be removed;
without --yes you are asked first.

Example:
  k2mlx models list
  k2mlx models rm moonshotai/Kimi-K2-Thinking --yes
"""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k2mlx.hub.store import StoredModel


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="list|rm")
    listing = commands.add_parser("list", help="bundled and pulled models")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    rm = commands.add_parser("rm", help="remove one")
    rm.add_argument("name", metavar="NAME", help="as listed, or OWNER/NAME")
    rm.add_argument("--yes", action="store_true", help="remove without asking")


def run(args: argparse.Namespace) -> int:
    from k2mlx.hub import store

    if args.action == "rm":
        return remove(args.name, args.yes)
    found = store.stored_models()
    if args.json:
        print(json.dumps({"models": [asdict(model) for model in found]}))
    else:
        print(table(found))
    return 0


def remove(name: str, yes: bool) -> int:
    from k2mlx.hub import store
    from k2mlx.progress import size_words

    path = store.removable(name)
    if not yes and not _asked(f"Remove {path}? [y/N] "):
        print(f"nothing removed; k2mlx models rm {name} --yes removes {path}")
        return 0
    print(f"removed {path}, {size_words(store.remove_model(path.name))}")
    return 0


def table(models: "list[StoredModel]") -> str:
    from k2mlx.progress import size_words

    rows = [("name", "size", "format", "revision", "state", "last read")]
    for model in models:
        revision = model.revision[:12] if model.revision else model.kind
        row = (model.name, size_words(model.bytes), model.format, revision, model.state)
        rows.append((*row, model.last_read or ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _asked(question: str) -> bool:
    """Whether a person at the terminal agrees; without a terminal nobody does."""
    return sys.stdin.isatty() and input(question).strip().lower() == "y"

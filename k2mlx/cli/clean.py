"""List what k2mlx has written to this machine, with sizes, and remove it.

Everything that k2mlx writes by itself lies in one folder, $K2MLX_HOME or ~/.k2mlx: conversations,
downloaded or converted models, caches. Files that you named yourself (--out) are not there and are
never touched. Names choose among the entries; without --yes you are asked first.

Example:
  k2mlx clean                      list everything, then ask
  k2mlx clean conversations --yes  remove the saved conversations
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from k2mlx.errors import RequestError
from k2mlx.home import home_path
from k2mlx.progress import size_words


@dataclass(frozen=True)
class Entry:
    """One file or folder directly under the home folder."""

    name: str
    bytes: int
    files: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries (default: all)")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    home = checked_home()
    entries = chosen(listed(home), args.names, home)
    say = sys.stderr if args.json else sys.stdout
    if not args.json or not args.yes:
        print(table(home, entries), file=say)
    remove = bool(entries) and (args.yes or (not args.json and asked()))
    if remove:
        for entry in entries:
            remove_entry(home, entry.name)
        print(f"removed {size_words(sum(entry.bytes for entry in entries))}", file=say)
    elif entries and not args.json:
        print("nothing removed; k2mlx clean --yes removes it")
    if args.json:
        found = [asdict(entry) for entry in entries]
        print(json.dumps({"home": str(home), "entries": found, "removed": remove}))
    return 0


def checked_home() -> Path:
    """The home folder, refused where emptying it would take more than what k2mlx wrote."""
    home = home_path().resolve()
    user = Path.home().resolve()
    if home in (user, *user.parents) or home in Path(__file__).resolve().parents:
        raise RequestError(
            f"{home}: will not be cleaned, it holds more than k2mlx's files;"
            " set K2MLX_HOME to a folder of its own, such as ~/.k2mlx"
        )
    return home


def listed(home: Path) -> list[Entry]:
    """Everything directly under the home folder, with the sizes of what is below."""
    if not home.is_dir():
        return []
    return [measure(path) for path in sorted(home.iterdir())]


def measure(path: Path) -> Entry:
    if path.is_symlink() or not path.is_dir():
        return Entry(path.name, path.lstat().st_size, 1)
    size = files = 0
    for folder, _, names in os.walk(path):
        for name in names:
            size += os.lstat(os.path.join(folder, name)).st_size
            files += 1
    return Entry(path.name, size, files)


def chosen(entries: list[Entry], names: list[str], home: Path) -> list[Entry]:
    """The named entries, or all; a name is an entry's own name, never a path that leads away."""
    known = {entry.name: entry for entry in entries}
    for name in names:
        if name not in known:
            raise RequestError(
                f"{name}: not an entry of {home}; it has {', '.join(known) or 'nothing'}"
            )
    return [known[name] for name in names] if names else entries


def remove_entry(home: Path, name: str) -> None:
    path = home / name
    if path.is_symlink() or not path.is_dir():
        path.unlink()  # a link goes, what it points to stays
    else:
        shutil.rmtree(path)


def asked() -> bool:
    """Whether a person at the terminal agrees; without a terminal nobody does."""
    return sys.stdin.isatty() and input("Remove this? [y/N] ").strip().lower() == "y"


def table(home: Path, entries: list[Entry]) -> str:
    if not entries:
        return f"{home}: nothing there"
    width = max(len(entry.name) for entry in entries)
    rows = [
        f"  {entry.name:{width}}  {size_words(entry.bytes):>9}  {entry.files} files"
        for entry in entries
    ]
    return "\n".join([str(home), *rows])

"""A rank that test_faults.py watches: the command line as it is, and marks of how far it is.

python -m tests.parallel.rank FOLDER WORDS...     writes FOLDER/RANK.pid, RANK.code and RANK.err
python -m tests.parallel.rank --inside FOLDER WORDS...     writes FOLDER/RANK.STAGE
    WORDS may begin with --break RANK, a step of that rank fails, or --no-config RANK

The first starts the second, and writes down how it ended, which mlx.launch does not tell.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RANK = os.environ["MLX_RANK"]


def outside(folder, words):
    with (folder / f"{RANK}.err").open("wb") as errors:
        rank = subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.rank", "--inside", folder, *words], stderr=errors
        )
    signal.signal(signal.SIGTERM, lambda number, _: rank.send_signal(number))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's reach the rank itself
        signal.signal(number, signal.SIG_IGN)
    write(folder / f"{RANK}.pid", rank.pid)
    code = rank.wait()
    write(folder / f"{RANK}.code", f"{code} {time.time()}")
    return 128 - code if code < 0 else code


def inside(folder, words):
    from k2mlx.cli import main, ranks
    from k2mlx.parallel import group
    from k2mlx.parallel.pipeline import Pipeline

    after(group, "connect", folder / f"{RANK}.joining")
    ranks._load = marked(ranks._load, folder / f"{RANK}.loading", folder / f"{RANK}.idle")
    after(Pipeline, "fill", folder / f"{RANK}.prefill")
    after(Pipeline, "choose", folder / f"{RANK}.decode")
    if words[0] in ("--break", "--no-config"):
        how, whose, *words = words
        if whose == RANK and how == "--break":
            Pipeline.choose = broken(Pipeline.choose)
        elif whose == RANK:
            group.ModelConfig.load = no_config
    return main(words)


def no_config(path):
    from k2mlx.errors import ConfigError

    raise ConfigError("no such luck")


def broken(choose):
    """The tenth step fails."""
    calls = []

    def fails(*args):
        calls.append(args)
        if len(calls) == 10:
            raise ValueError("no such luck")
        return choose(*args)

    return fails


def after(owner, name, mark):
    setattr(owner, name, marked(getattr(owner, name), None, mark))


def marked(call, before, after):
    """The function; writes the marks when it is first called, and has first ended."""

    def calls(*args, **options):
        if before is not None and not before.exists():
            write(before, os.getpid())
        found = call(*args, **options)
        if not after.exists():
            write(after, os.getpid())
        return found

    return calls


def write(path, content):
    aside = path.with_name(f".{path.name}")
    aside.write_text(str(content))
    aside.rename(path)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        sys.exit(inside(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(outside(Path(sys.argv[1]), sys.argv[2:]))

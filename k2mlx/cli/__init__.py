"""The command line: a table of commands, and what is common to them.

Only the chosen command's module is imported, so `k2mlx --help` answers at once. A command is a
module `k2mlx/cli/NAME.py` with a docstring (its help: what it does, then `Example:`),
`arguments(parser)` and `run(args)`, which returns an exit code or None.

Exit codes: 0 done; 1 done, and something that was checked is wrong; 2 something the user gave
cannot be used (one line on standard error; --debug shows the traceback); 130 interrupted.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from k2mlx.errors import K2Error

COMMANDS = {
    "chat": ("k2mlx.cli.chat", "talk to a model in the browser, with tools"),
    "generate": ("k2mlx.cli.generate", "continue a prompt in the terminal"),
    "render": ("k2mlx.cli.render", "print the prompt that messages and tools become"),
    "parse": ("k2mlx.cli.parse", "turn model output into events"),
    "eval": ("k2mlx.cli.eval", "measure a model on tool calls"),
    "bench": ("k2mlx.cli.bench", "measure speed and memory against mlx-lm"),
    "cluster": ("k2mlx.cli.cluster", "run on several machines together"),
    "plan": ("k2mlx.cli.plan", "say what fits on which Macs, and how fast it can be"),
    "convert": ("k2mlx.cli.convert", "turn a checkpoint into the form in which it is to run"),
    "check": ("k2mlx.cli.check", "verify a model folder: shapes, index, hashes, values"),
    "slice": ("k2mlx.cli.slice", "write random weights in an official layout, for proofs"),
    "doctor": ("k2mlx.cli.doctor", "check that this machine computes what it should"),
    "pull": ("k2mlx.cli.pull", "fetch a model's weights from a hub"),
    "models": ("k2mlx.cli.models", "list the models on this machine, or remove one"),
    "clean": ("k2mlx.cli.clean", "list what k2mlx has written, and remove it"),
    "data": ("k2mlx.cli.data", "turn text and conversations into training shards"),
    "synth": ("k2mlx.cli.synth", "write conversations that use tools, for training"),
    "pretrain": ("k2mlx.cli.pretrain", "train a model on text"),
    "sft": ("k2mlx.cli.sft", "train a model on conversations"),
}


class _Command(Protocol):
    def arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int | None: ...


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; subparsers inherit it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args[:1]
    if debug:
        args = args[1:]
    try:
        code = _dispatch(args, debug)
        sys.stdout.flush()  # here, so that a closed pipe is met inside the try
        return code
    except BrokenPipeError:
        # Whoever read our output (`| head`) has left. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(args: list[str], debug: bool) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if args[0] == "--version":
        from k2mlx import __version__

        print(f"k2mlx {__version__}")
        return 0
    if args[0] not in COMMANDS:
        return _unknown(args[0])
    return _run(args[0], args[1:], debug)


def _run(name: str, args: list[str], debug: bool) -> int:
    try:
        module = import_module(COMMANDS[name][0])
        command = cast(_Command, module)
        parser = Parser(
            prog=f"k2mlx {name}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        namespace = parser.parse_args(args)
        debug = debug or namespace.debug
        return command.run(namespace) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except (K2Error, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno == errno.EIO and not error.filename:
            raise BrokenPipeError from error  # the terminal has gone
        message = _one_line(error)
        if debug or message is None:
            raise
        print(f"k2mlx: {message}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str | None:
    """The line a person gets for an error, or None if it is a bug and they get the traceback."""
    if isinstance(error, K2Error):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else None
    if "libmlx" in str(error):
        return (
            "mlx is installed without a backend for this machine;"
            " pip install 'k2mlx[cpu]' (or 'k2mlx[cuda]' with an NVIDIA GPU)"
        )
    return None


def _unknown(name: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    advice = f"did you mean '{near[0]}'?" if near else "see 'k2mlx --help'"
    kind = "option" if name.startswith("-") else "command"
    print(f"k2mlx: unknown {kind} '{name}'; {advice}", file=sys.stderr)
    return 2


def overview() -> str:
    """What `k2mlx --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {help}" for name, (_, help) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: k2mlx [--help] [--version] [--debug] COMMAND ...",
            "",
            "Kimi K2 on MLX: talk to it, measure it, train it.",
            "",
            "commands:",
            *lines,
            "",
            "'k2mlx COMMAND --help' explains one, with an example.",
        ]
    )

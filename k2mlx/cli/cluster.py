"""Make several machines one: find their addresses, check them, run a command on all.

`init` asks the hosts for their addresses over ssh and writes the host file, with those of the
fastest cable in a subnet that all are in: Thunderbolt before Ethernet before Wi-Fi, never a VPN. It
says which it took; the order of the hosts is that of the ranks.

`check` visits every host of the host file over ssh and prints a table: versions, free memory, the
model, the time and rate from each host to the next, and what of macOS is in the way. What is wrong
is said in one line each, with what to do; the exit code is 1 then.

`run` starts the command on every host of the host file, by mlx.launch, and watches over it: the
exit code is the ranks' own, Ctrl-C ends all of them in order, processes that stopped are ended on
their hosts (asked to first), and when a rank was lost it starts again: on all hosts if they answer
within --wait seconds, else on the rest, if that can hold the model. Conversations go on from the
prefix cache on disk. The ring between the ranks is neither encrypted nor authenticated: use it only
in a network that you trust.

Example:
  k2mlx cluster init studio1 studio2
  k2mlx cluster check --model ./kimi-k2-thinking
  k2mlx cluster run --hostfile hosts.json -- chat --model ./kimi-k2-thinking
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """init, check, run."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="ask hosts for their addresses; write the host file")
    add = init.add_argument
    add("hosts", nargs="+", metavar="HOST", help="as ssh knows it; 127.0.0.1 is this machine")
    add("--out", type=Path, default=Path("hosts.json"), metavar="PATH", help="(%(default)s)")
    add("--backend", choices=["ring", "jaccl"], default="ring", help="jaccl: RDMA (%(default)s)")
    add("--force", action="store_true", help="replace a file that says something else")
    check = commands.add_parser("check", help="visit every host; say what is wrong, and what to do")
    _hostfile(check)
    check.add_argument("--model", metavar="PATH", help="look for it too, and whether it fits")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _python(check)
    run_ = commands.add_parser("run", help="run a command on all hosts, and keep it running")
    _hostfile(run_)
    add = run_.add_argument
    add("--wait", type=float, default=60, metavar="S", help="for a lost host (%(default)s)")
    add("--retries", type=int, default=3, metavar="N", help="new starts in a row (%(default)s)")
    _python(run_)
    add("--port", type=int, default=32323, metavar="N", help="first of the ring's (%(default)s)")
    add(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="such as: chat --model PATH"
    )


def _hostfile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hostfile", type=Path, default=Path("hosts.json"), metavar="PATH", help="(%(default)s)"
    )


def _python(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="on all hosts (as here)"
    )


def run(args: argparse.Namespace) -> int:
    """The exit code: for `run`, of what ran."""
    return {"init": _init, "check": _check, "run": _run}[args.what](args)


def _init(args: argparse.Namespace) -> int:
    from k2mlx.cluster.hostfile import write_hostfile
    from k2mlx.cluster.survey import make_hostfile

    hostfile, lines = make_hostfile(args.hosts, args.backend)
    print("\n".join(lines))
    write_hostfile(args.out, hostfile, args.force)
    print(f"wrote {args.out}; next: k2mlx cluster check --hostfile {args.out}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from k2mlx.cluster.check import check
    from k2mlx.cluster.hostfile import read_hostfile

    report = check(read_hostfile(args.hostfile), _elsewhere(args.model), args.python)
    print(report.to_json() if args.json else report)
    return 1 if report.problems else 0


def _elsewhere(model: str | None) -> str | None:
    """As to be said on another host, where ssh starts in another folder."""
    if model is not None and Path(model).expanduser().is_dir():
        return str(Path(model).expanduser().absolute())
    return model


def _run(args: argparse.Namespace) -> int:
    from k2mlx.cli import COMMANDS
    from k2mlx.cluster.hostfile import read_hostfile
    from k2mlx.cluster.supervise import Settings, model_of, supervise
    from k2mlx.errors import RequestError

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise RequestError("cluster run: got no command, wanted one such as '-- chat --model PATH'")
    if command[0] in COMMANDS:
        command = ["python", "-m", "k2mlx", *command]
    if command[0] in ("python", "python3"):
        command[0] = args.python
    hosts = read_hostfile(args.hostfile)
    if silent := [host.ssh for host in hosts.hosts if not host.ips]:
        raise RequestError(
            f"{args.hostfile}: no addresses of {', '.join(silent)}; 'k2mlx cluster init' finds them"
        )
    stop = threading.Event()
    signals: list[int] = []

    def end(number: int, _: object) -> None:
        signals.append(number)
        stop.set()

    ways = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: its terminal was closed
    before = {s: signal.signal(s, end) for s in ways}
    model = _elsewhere(model_of(command))
    settings = Settings(args.python, model, args.wait, args.retries, args.port)
    try:
        code = supervise(hosts, command, settings, _say, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + signals[0] if signals else code


def _say(text: str) -> None:
    print(f"k2mlx: {text}", file=sys.stderr, flush=True)

"""Make several machines one: find their addresses, check them, run a command on all.

`init` asks each host by ssh for its networks and writes the host file: Thunderbolt or another cable
in a network that all are in, else Wi-Fi, never a VPN. (RDMA devices, for the backend jaccl, are
found by mlx.distributed_config, whose files do here too.) `check` visits every host and prints what
is there and what is wrong: versions, memory, the model, round trip and bandwidth to the neighbours.

`run` starts the command on every host of the host file, by mlx.launch, and watches over it: the
exit code is the ranks' own, Ctrl-C ends all of them in order, processes that stopped are ended on
their hosts (asked to first), and when a rank was lost it starts again: on all hosts if they answer
within --wait seconds, else on the rest, if that can hold the model. Conversations go on from the
prefix cache on disk. The ring between the ranks is neither encrypted nor authenticated: use it only
in a network that you trust.

Example:
  k2mlx cluster init studio1.local studio2.local
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
    init = commands.add_parser("init", help="write the host file")
    init.add_argument("hosts", nargs="+", metavar="HOST", help="as for ssh; rank 0 first")
    init.add_argument("--out", type=Path, default=Path("hosts.json"), metavar="PATH")
    init.add_argument("--force", action="store_true", help="replace a host file that differs")
    check = commands.add_parser("check", help="visit every host, and say what is wrong")
    _hostfile(check)
    check.add_argument("--model", metavar="MODEL", help="folder or name, as on the hosts")
    check.add_argument("--python", default=sys.executable, metavar="PATH", help="(as here)")
    check.add_argument("--json", action="store_true", help="one object a host")
    run_ = commands.add_parser("run", help="run a command on all hosts, and keep it running")
    _hostfile(run_)
    add = run_.add_argument
    add("--wait", type=float, default=60, metavar="S", help="for a lost host (%(default)s)")
    add("--retries", type=int, default=3, metavar="N", help="starts after the first (%(default)s)")
    add("--python", default=sys.executable, metavar="PATH", help="on all hosts (as here)")
    add("--port", type=int, default=32323, metavar="N", help="first of the ring's (%(default)s)")
    add(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="such as: chat --model PATH"
    )


def _hostfile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hostfile", type=Path, default=Path("hosts.json"), metavar="PATH", help="(%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """For `run` the exit code of what ran; 1 where `check` finds something wrong."""
    return {"init": _init, "check": _check, "run": _run}[args.what](args)


def _init(args: argparse.Namespace) -> int:
    from k2mlx.cluster.hostfile import write_hostfile
    from k2mlx.cluster.setup import find

    hostfile, lines = find(args.hosts)
    write_hostfile(args.out, hostfile, args.force)
    for line in lines:
        print(line)
    print(f"{args.out} is written; 'k2mlx cluster check --hostfile {args.out}' checks it")
    return 0


def _check(args: argparse.Namespace) -> int:
    import json

    from k2mlx.cluster.check import check, notes, table
    from k2mlx.cluster.hostfile import read_hostfile
    from k2mlx.plan.table import aligned

    visits = check(read_hostfile(args.hostfile), args.python, args.model)
    problems = [problem for visit in visits for problem in visit.problems]
    if args.json:
        for visit in visits:
            known = {"host": visit.host.ssh, "right": visit.right, "problems": visit.problems}
            print(json.dumps(known | visit.said))
    else:
        print("\n".join([*aligned(table(visits)), *notes(visits)]))
        for problem in problems:
            print(f"wrong: {problem}")
    return 1 if problems else 0


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

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
    settings = Settings(args.python, model_of(command), args.wait, args.retries, args.port)
    try:
        code = supervise(hosts, command, settings, _say, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + signals[0] if signals else code


def _say(text: str) -> None:
    print(f"k2mlx: {text}", file=sys.stderr, flush=True)

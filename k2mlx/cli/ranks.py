"""Commands that run a model on one machine or, under mlx.launch, on several.

    mlx.launch --hostfile hosts.json -- python -m k2mlx generate --model PATH --prompt ...

The command is the same; the group is found, not configured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2mlx.cli.progress import Report, watched
from k2mlx.errors import ClusterError

if TYPE_CHECKING:
    from k2mlx.generate import Engine
    from k2mlx.parallel.group import Group


def arguments(parser: argparse.ArgumentParser) -> None:
    """--split and --parallel."""
    group = parser.add_argument_group("on several machines, under mlx.launch")
    group.add_argument(
        "--split",
        metavar="N,N,...",
        help="layers of each rank, such as 31,30 (default: by memory and bandwidth)",
    )
    group.add_argument(
        "--parallel",
        choices=["pipeline", "tensor"],
        default="pipeline",
        help="layers on each rank, or a share of every matrix on 2 or 4 equal ones"
        " (default: %(default)s)",
    )


def follows() -> bool:
    """Whether this process only goes along with rank 0."""
    return os.environ.get("MLX_RANK", "0") != "0"


@contextmanager
def engine(args: argparse.Namespace, path: Path, **options: Any) -> Generator[Engine | None]:
    """The engine that answers requests for the model in `path`; None on ranks other than the first,
    where everything has been done by then."""
    from k2mlx.generate import Engine
    from k2mlx.generate.memory import free_memory
    from k2mlx.load import load
    from k2mlx.parallel.group import join
    from k2mlx.parallel.split import CONTEXT, parse_split

    by_hand = parse_split(args.split) if args.split else None
    tensor, report = args.parallel == "tensor", Loading() if watched(sys.stderr) else None
    group = join(
        path,
        capacity=free_memory(),
        context=CONTEXT,
        by_hand=by_hand,
        tensor=tensor,
        on_report=report,
    )
    if group is None:
        with Engine(lambda: load(path), **options) as alone:
            yield alone
        return
    from k2mlx.parallel.exit import leave, on_signals

    if report is not None:
        report.size = group.size

    group.on_stop(lambda: os.kill(os.getpid(), signal.SIGINT))
    on_signals(_interrupt if group.leads else group.ask_to_stop)
    of_request: BaseException | None = None
    try:
        with group, Engine(lambda: _load(path, group), group=group, **options) as shared:

            def fail(error: Exception) -> None:
                shared.fail(error)
                leave(error)

            group.on_failure(fail)
            if not group.leads:
                shared.follow()
            try:
                yield shared if group.leads else None
            except ClusterError:
                raise
            except BaseException as error:  # not the group's, which ends in order
                of_request = error
    except ClusterError as error:  # the same that `fail` gets, who may be saying it by now
        leave(error)
    if of_request is not None:
        raise of_request


def _interrupt() -> None:
    raise KeyboardInterrupt


def _load(path: Path, group: Group) -> Any:
    """This rank's part of the model."""
    from k2mlx.load import load

    if group.tensor:
        from k2mlx.parallel.tensor import load_share

        return load(path, read=partial(load_share, group=group.ring), on_bytes=group.report)
    return load(path, held=group.layers, on_bytes=group.report)


class Loading:
    """One line for what all ranks have loaded; called on the channel's thread. size: of the group,
    when it is known; nothing is shown before all of them have said how much they load."""

    def __init__(self) -> None:
        self.size = sys.maxsize
        self._lock = threading.Lock()
        self._ranks: dict[int, tuple[int, int]] = {}
        self._report = Report("loading")

    def __call__(self, rank: int, done: int, total: int) -> None:
        with self._lock:
            self._ranks[rank] = done, total
            if len(self._ranks) < self.size:
                return
            loaded, wanted = (sum(column) for column in zip(*self._ranks.values(), strict=True))
            self._report(loaded, wanted)

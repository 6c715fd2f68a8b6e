"""A rank for these tests: python -m tests.cluster.toy FOLDER. It writes its process id there and
waits to be killed, stopped or ended; once FOLDER/again is there it ends well at once."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from k2mlx.parallel.channel import Closed
from k2mlx.parallel.exit import leave, on_signals
from k2mlx.parallel.group import connect


def main(folder):
    found = connect()
    rank, size, channel = 0, 1, None
    if found is not None:
        ring, channel = found
        rank, size = ring.rank(), ring.size()
        channel.on_failure = leave
    ended = threading.Event()
    on_signals(ended.set if rank == 0 else channel.ask_to_stop)
    if channel is not None and rank == 0:
        channel.on_stop = ended.set
    with (folder / "log").open("a") as log:
        log.write(f"rank {rank} of {size}\n")
    if not (folder / "again").exists():
        aside = folder / f".{rank}.pid"
        aside.write_text(f"{os.getpid()} {os.getppid()}")
        aside.rename(folder / f"{rank}.pid")
        if rank == 0:
            ended.wait(60)
    if rank:
        with suppress(Closed):
            channel.hear()
    print(f"rank {rank} says goodbye", flush=True)
    if channel is not None:
        channel.close()


main(Path(sys.argv[1]))

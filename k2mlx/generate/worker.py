"""What lives on an engine's thread: it loads, takes requests from the queue and lets the scheduler
run them. With several ranks, those of rank 0 are everyone's (script.py)."""

from __future__ import annotations

import atexit
import itertools
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from k2mlx.errors import K2Error, RequestError
from k2mlx.generate import mac
from k2mlx.generate.generation import Channel, FinishReason
from k2mlx.generate.info import Ready, describe
from k2mlx.generate.job import Job
from k2mlx.generate.memory import PrefixSettings, free_memory, row_bytes
from k2mlx.generate.prefix import PrefixStore, open_store
from k2mlx.generate.room import Room
from k2mlx.generate.scheduler import Scheduler
from k2mlx.generate.script import END, decode_step, encode_step
from k2mlx.generate.speculate import Costs
from k2mlx.load import Loaded
from k2mlx.parallel.group import Group
from k2mlx.runner import Runner


class Limits(NamedTuple):
    """What an engine was asked for; see Engine."""

    chunk: int
    streams: int
    memory: int | None
    speculate: bool
    wired: bool
    awake: bool


class Worker:
    """The inside of an Engine."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        limits: Limits,
        settings: PrefixSettings | None,
        group: Group | None,
    ) -> None:
        self.settled = threading.Event()  # loading has ended, well or badly
        self.ended = threading.Event()  # nothing will run any more
        self.ident: int | None = None
        self.room = Room(1, 0, 0)
        self._load, self._limits, self._settings, self._group = load, limits, settings, group
        self._prefix: PrefixStore | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._readers: weakref.WeakValueDictionary[int, Channel] = weakref.WeakValueDictionary()
        self._ready: Ready | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._numbers = itertools.count()
        self._scheduler: Scheduler | None = None
        _workers.add(self)
        if group is not None:
            group.on_failure(self.fail)

    # Called from any thread.

    def ready(self) -> Ready:
        self.settled.wait()
        self.check()
        if self._stopping or self._ready is None:
            raise RequestError("the engine is closed; make a new Engine to go on")
        return self._ready

    def check(self) -> None:
        """Raises what ended it."""
        if self._error is not None:
            raise self._error

    def accept(self, job: Job) -> None:
        job.number = next(self._numbers)
        self._readers[job.number] = job.channel
        self._jobs.put(job)
        if self.ended.is_set() or self._error is not None:
            self._drain()  # between `ready` and here; nobody else would answer it

    def stop(self) -> None:
        """May run in a garbage collection: takes no lock (SimpleQueue.put is reentrant)."""
        self._stopping = True
        self._jobs.put(None)

    def fail(self, error: BaseException) -> None:
        """Tell every reader now: the engine's thread may wait for another rank for ever."""
        self._error = error
        self.settled.set()
        for channel in list(self._readers.values()):
            channel.finish("error", error)
        self.stop()

    def prefix_figures(self) -> dict[str, int]:
        prefix = self._prefix
        return {} if prefix is None else prefix.figures()

    # Called on the engine's thread.

    def run(self) -> None:
        self.ident = threading.get_ident()
        try:
            self._start(self._load())
        except BaseException as error:
            self._end_with(error)
        finally:
            self.settled.set()
        try:
            with mac.held(wired=self._limits.wired, awake=self._limits.awake):
                while self._error is None and not self._stopping:
                    self._step()
            if self._scheduler is not None and self._error is None:
                if self._group is not None and self._group.leads:
                    self._group.tell(END)
                self._scheduler.cancel_all()
        except BaseException as error:
            self._end_with(error, "the engine's thread died: ")
        finally:
            self._close_prefix()
            self._prefix = None
            self._drain()
            self._scheduler = None
            for call in (mx.synchronize, mx.clear_cache):
                with suppress(RuntimeError):  # MLX repeats that a neighbour is lost, in any call
                    call()
            self.ended.set()
            self._drain()

    def _end_with(self, error: BaseException, what: str = "") -> None:
        """The reason why nothing runs any more; if it is ours, the other ranks are told."""
        if self._group is not None:
            error = self._group.failed(error)
        elif what:  # a bug in the engine itself: say so to every reader
            cause, error = error, K2Error(f"{what}{error!r}; restart and report this")
            error.__cause__ = cause
        if self._error is None:
            self._error = error

    def _start(self, loaded: Loaded) -> None:
        group, limits = self._group, self._limits
        layers = len(loaded.model.make_cache())
        row = row_bytes(loaded.config, layers)
        if self._settings is not None:
            self._prefix = open_store(loaded, self._settings, row, group)
        memory = free_memory() // 2 if limits.memory is None else limits.memory
        if group is not None:  # in tokens the same for all, so that all decide alike
            memory, layers = group.vote(memory // row) * row, group.vote(layers)
            loaded = replace(loaded, bytes=group.total(loaded.bytes))
        self._ready = ready = describe(loaded, self._prefix)
        costs = Costs() if limits.speculate else None
        make_runner = Runner if group is None else group.runner
        runner = make_runner(loaded.model, ready.vocabulary)
        copies = self._prefix is not None
        self.room = Room(
            row, memory, limits.streams, layers=layers, lanes=runner.lanes, copies=copies
        )
        self._scheduler = Scheduler(runner, self.room, self._prefix, costs, limits.chunk)

    def _step(self) -> None:
        """Take what has come, waiting where nothing runs, and let everyone go on a step."""
        assert self._scheduler is not None
        follows = self._group is not None and not self._group.leads
        orders = self._heard(self._scheduler) if follows else self._ordered(self._scheduler)
        if orders is None:
            self._stopping = True
            return
        jobs, dropped = orders
        for job in jobs:
            self._scheduler.add(job)
        self._scheduler.drop(dropped)
        self._scheduler.step()

    def _ordered(self, scheduler: Scheduler) -> tuple[list[Job], list[int]] | None:
        """Who came and who goes; None at the end."""
        jobs = []
        while not self._stopping:
            if scheduler.idle and not jobs:
                job = self._next_job()
            else:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if job is not None and job.channel.cancelled:
                job.channel.finish("cancelled")
            elif job is not None:
                jobs.append(job)
        if self._stopping:
            for job in jobs:
                job.channel.finish("cancelled")
            return None
        dropped = scheduler.unwanted()
        if self._group is not None:
            self._group.tell(encode_step(jobs, dropped))
        return jobs, dropped

    def _heard(self, scheduler: Scheduler) -> tuple[list[Job], list[int]] | None:
        """What rank 0 ordered; the wait for it is used to save prefixes."""
        assert self._group is not None
        while scheduler.idle:
            try:
                return decode_step(self._group.hear(0.0))
            except TimeoutError:
                if not self._save_some():
                    break
        return decode_step(self._group.hear())

    def _next_job(self) -> Job | None:
        """The next in the queue, waiting for it; the wait is used to save prefixes."""
        while self._jobs.empty() and self._save_some():
            pass
        return self._jobs.get()

    def _save_some(self) -> bool:
        try:
            return self._prefix is not None and self._prefix.save_some()
        except Exception as error:  # of the device; the next request may do well
            print(f"k2mlx: prefix cache: not saved ({error!r})", file=sys.stderr)
            return False

    def _close_prefix(self) -> None:
        try:
            if self._prefix is not None:
                self._prefix.close()
        except Exception as error:  # nobody waits for it, and the end must go on
            print(f"k2mlx: prefix cache: not saved ({error!r})", file=sys.stderr)

    def _drain(self) -> None:
        """End what runs and waits when nothing will run any more."""
        reason: FinishReason = "error" if self._error else "cancelled"
        if self._scheduler is not None and self.ident == threading.get_ident():
            self._scheduler.end(reason, self._error)
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for channel in list(self._readers.values()):  # also of a job that was between two places
            channel.finish(reason, self._error)


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A thread that is inside MLX when the interpreter goes away would crash the process."""
    workers = list(_workers)
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.ended.wait(10.0)
    if workers:
        time.sleep(0.002)  # the threads get from telling us to waiting for their next task

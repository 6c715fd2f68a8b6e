"""The engine: one thread on which all MLX work happens, and the queue that leads to it.

MLX's streams belong to threads, so a model is loaded, run and freed on the same one. Others submit
token ids and get a Generation to read from. `scheduler` says which request computes next.
"""

import atexit
import itertools
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import mlx.core as mx

from k2mlx.config import ModelConfig
from k2mlx.errors import K2Error, RequestError
from k2mlx.generate import mac, thread
from k2mlx.generate.generation import Channel, FinishReason, Generation, Stats
from k2mlx.generate.info import EngineInfo, Ready, describe
from k2mlx.generate.job import Job, Progress
from k2mlx.generate.memory import PrefixSettings, free_memory, row_bytes
from k2mlx.generate.prefix import PrefixStore, open_store
from k2mlx.generate.room import Room
from k2mlx.generate.runner import Runner
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.scheduler import Scheduler
from k2mlx.generate.speculate import Costs
from k2mlx.load import Loaded
from k2mlx.tokenizer import Tokenizer


class Engine:
    """Loads a model on its own thread and answers requests there, several at once.

    load: called on the engine's thread. chunk: prompt tokens computed at a time. reuse: keep the
    caches of earlier requests as `prefix` says, so that a prompt computes only what is new.
    streams: requests that run at once, as far as their caches fit in `memory` bytes (None: half of
    what is free once the model is loaded); others wait their turn. speculate: guess tokens that
    repeat what came before, and check several in one step where that saves time; the tokens are the
    same (see `speculate`). wired, awake: what is asked of macOS meanwhile (see `mac`).

    Close it, use it in `with`, or drop it: its work ends and the model is freed.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        chunk: int = 512,
        reuse: bool = True,
        prefix: PrefixSettings | None = None,
        streams: int = 16,
        memory: int | None = None,
        speculate: bool = False,
        wired: bool = True,
        awake: bool = True,
    ) -> None:
        if chunk < 1:
            raise RequestError(f"chunk: got {chunk}, wanted 1 or more prompt tokens at a time")
        if streams < 1:
            raise RequestError(f"streams: got {streams}, wanted 1 or more requests at once")
        settings = (prefix or PrefixSettings()) if reuse else None
        self._worker = _Worker(
            load, Limits(chunk, streams, memory, speculate, wired, awake), settings
        )
        # The thread holds the worker, not the engine, so a dropped engine can be collected.
        weakref.finalize(self, self._worker.stop).atexit = False
        thread.run(self._worker.run)

    @property
    def info(self) -> EngineInfo:
        """What is loaded; waits for it. Raises what loading raised."""
        return self._worker.ready().info

    @property
    def config(self) -> ModelConfig:
        """The model's config; waits for loading."""
        return self._worker.ready().config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; waits for loading."""
        return self._worker.ready().tokenizer

    @property
    def prefix_figures(self) -> dict[str, int]:
        """What was kept of earlier prompts and what it saved; see `prefix.Counters`. Empty when
        nothing is kept."""
        self._worker.ready()
        return self._worker.prefix_figures()

    @property
    def loading(self) -> bool:
        """Whether the model is still being loaded; other calls would wait for it."""
        return not self._worker.settled.is_set()

    def submit(
        self,
        prompt_ids: SequenceOf[int],
        sampling: Sampling | None = None,
        on_progress: Progress | None = None,
        *,
        stop_ids: Iterable[int] | None = None,
    ) -> Generation:
        """Queue a request.

        on_progress(done, total): called on the engine's thread as the prompt is computed.
        stop_ids: tokens that end the answer, by default the model's own.

        Raises: RequestError for a prompt that is empty, holds no ids of this model's vocabulary,
        leaves no room in the context or needs more memory than there is; what loading raised.
        """
        ready = self._worker.ready()
        prompt = [int(token) for token in prompt_ids]
        context = ready.config.max_position_embeddings
        _check_prompt(prompt, context, ready.vocabulary)
        sampling = sampling or Sampling()
        limit = min(sampling.max_tokens, context - len(prompt))
        self._worker.room.check(len(prompt), limit)
        job = Job(
            prompt,
            sampling,
            limit=limit,
            ends=ready.ends if stop_ids is None else frozenset(stop_ids),
            on_progress=on_progress,
            channel=Channel(Stats(prompt_tokens=len(prompt))),
        )
        generation = Generation(job.channel)
        self._worker.accept(job)
        return generation

    def close(self, timeout: float = 60.0) -> None:
        """Cancel what runs and waits, and free the model. Does nothing a second time."""
        self._worker.stop()
        if self._worker.ident != threading.get_ident():  # a callback of ours may close us
            self._worker.ended.wait(timeout)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_prompt(prompt: list[int], context: int, vocabulary: int) -> None:
    if not prompt:
        raise RequestError("the prompt is empty, wanted at least 1 token; write something")
    if len(prompt) + 1 > context:
        raise RequestError(
            f"prompt has {len(prompt)} tokens, the context is {context} with room for the answer;"
            f" shorten it to {context - 1} or fewer"
        )
    low, high = min(prompt), max(prompt)
    if low < 0 or high >= vocabulary:
        raise RequestError(
            f"prompt: got token id {low if low < 0 else high}, wanted 0 to {vocabulary - 1};"
            " the ids come from another tokenizer"
        )


class Limits(NamedTuple):
    """What an engine was asked for; see Engine."""

    chunk: int
    streams: int
    memory: int | None
    speculate: bool
    wired: bool
    awake: bool


class _Worker:
    """What lives on the engine's thread: it loads, takes requests from the queue and lets the
    scheduler run them."""

    def __init__(
        self, load: Callable[[], Loaded], limits: Limits, settings: PrefixSettings | None
    ) -> None:
        self.settled = threading.Event()  # loading has ended, well or badly
        self.ended = threading.Event()  # nothing will run any more
        self.ident: int | None = None
        self.room = Room(1, 0, 0)
        self._load, self._limits, self._settings = load, limits, settings
        self._prefix: PrefixStore | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ready: Ready | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._numbers = itertools.count()
        self._scheduler: Scheduler | None = None
        _workers.add(self)

    # Called from any thread.

    def ready(self) -> Ready:
        self.settled.wait()
        if self._error is not None:
            raise self._error
        if self._stopping or self._ready is None:
            raise RequestError("the engine is closed; make a new Engine to go on")
        return self._ready

    def accept(self, job: Job) -> None:
        self._jobs.put(job)
        if self.ended.is_set():  # between `ready` and here; nobody else would answer it
            self._drain()

    def stop(self) -> None:
        """May run in a garbage collection: takes no lock (SimpleQueue.put is reentrant)."""
        self._stopping = True
        self._jobs.put(None)

    def prefix_figures(self) -> dict[str, int]:
        prefix = self._prefix
        return {} if prefix is None else prefix.figures()

    # Called on the engine's thread.

    def run(self) -> None:
        self.ident = threading.get_ident()
        try:
            self._start(self._load())
        except BaseException as error:
            self._error = error
        finally:
            self.settled.set()
        try:
            with mac.held(wired=self._limits.wired, awake=self._limits.awake):
                while self._error is None and not self._stopping:
                    self._step()
            if self._scheduler is not None:
                self._scheduler.cancel_all()
        except BaseException as error:  # a bug in the engine itself: say so to every reader
            self._error = K2Error(f"the engine's thread died: {error!r}; restart and report this")
            self._error.__cause__ = error
        finally:
            self._close_prefix()
            self._prefix = None
            self._drain()
            self._scheduler = None
            mx.synchronize()
            mx.clear_cache()
            self.ended.set()
            self._drain()

    def _start(self, loaded: Loaded) -> None:
        if self._settings is not None:
            self._prefix = open_store(loaded, self._settings)
        limits = self._limits
        memory = free_memory() // 2 if limits.memory is None else limits.memory
        self._ready = describe(loaded, self._prefix)
        costs = Costs() if limits.speculate else None
        runner = Runner(loaded.model, self._ready.vocabulary)
        self.room = Room(
            row_bytes(loaded.config),
            memory,
            limits.streams,
            layers=loaded.config.num_hidden_layers,
            lanes=runner.lanes,
            copies=self._prefix is not None,
        )
        self._scheduler = Scheduler(runner, self.room, self._prefix, costs, limits.chunk)

    def _step(self) -> None:
        """Take what has come, waiting where nothing runs, and let everyone go on a step."""
        assert self._scheduler is not None
        while not self._stopping:
            if self._scheduler.idle:
                job = self._next_job()
            else:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if job is not None:
                job.number = next(self._numbers)
                self._scheduler.add(job)
        if not self._stopping:
            self._scheduler.drop(self._scheduler.unwanted())
            self._scheduler.step()

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
        if self._scheduler is not None:
            self._scheduler.end(reason, self._error)
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.channel.finish(reason, self._error)


_workers: "weakref.WeakSet[_Worker]" = weakref.WeakSet()


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

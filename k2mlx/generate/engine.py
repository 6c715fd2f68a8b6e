"""The engine: one thread on which all MLX work happens, and the queue that leads to it.

MLX's streams belong to threads, so a model is loaded, run and freed on the same one. Others submit
token ids and get a Generation to read from. Requests are served in the order they came.
"""

import atexit
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import mlx.core as mx

from k2mlx.config import ModelConfig
from k2mlx.errors import K2Error, RequestError
from k2mlx.generate import thread
from k2mlx.generate.generation import Channel, FinishReason, Generation, Stats
from k2mlx.generate.info import EngineInfo, Ready, describe
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.prefix import PrefixStore, Taken, open_store
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.sequence import Sequence
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


@dataclass
class Job:
    """A request on its way through the engine."""

    prompt: list[int]
    sampling: Sampling
    limit: int
    ends: frozenset[int]
    on_progress: Progress | None
    channel: Channel


class Engine:
    """Loads a model on its own thread and answers requests there, one after another.

    load: called on the engine's thread. chunk: prompt tokens computed at a time. reuse: keep the
    caches of earlier requests as `prefix` says, so that a prompt computes only what is new.

    Close it, use it in `with`, or drop it: its work ends and the model is freed.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        chunk: int = 512,
        reuse: bool = True,
        prefix: PrefixSettings | None = None,
    ) -> None:
        if chunk < 1:
            raise RequestError(f"chunk: got {chunk}, wanted 1 or more prompt tokens at a time")
        self._worker = _Worker(load, chunk, (prefix or PrefixSettings()) if reuse else None)
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

        Raises: RequestError for a prompt that is empty, holds no ids of this model's vocabulary or
        leaves no room in the context; what loading raised.
        """
        ready = self._worker.ready()
        prompt = [int(token) for token in prompt_ids]
        context = ready.config.max_position_embeddings
        _check_prompt(prompt, context, ready.vocabulary)
        sampling = sampling or Sampling()
        job = Job(
            prompt,
            sampling,
            limit=min(sampling.max_tokens, context - len(prompt)),
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


class _Worker:
    """What lives on the engine's thread. `step` is: schedule, run, postprocess."""

    def __init__(
        self, load: Callable[[], Loaded], chunk: int, settings: PrefixSettings | None
    ) -> None:
        self.settled = threading.Event()  # loading has ended, well or badly
        self.ended = threading.Event()  # nothing will run any more
        self.ident: int | None = None
        self._load = load
        self._chunk = chunk
        self._settings = settings
        self._prefix: PrefixStore | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ready: Ready | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._model: Model | None = None
        self._job: Job | None = None
        self._sequence: Sequence | None = None
        self._began = 0.0
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
            loaded = self._load()
            self._model = loaded.model
            if self._settings is not None:
                self._prefix = open_store(loaded, self._settings)
            self._ready = describe(loaded, self._prefix)
            del loaded
        except BaseException as error:
            self._error = error
        finally:
            self.settled.set()
        try:
            while self._error is None and self._step():
                pass
        except BaseException as error:  # a bug in the engine itself: say so to every reader
            self._error = K2Error(f"the engine's thread died: {error!r}; restart and report this")
            self._error.__cause__ = error
        finally:
            self._close_prefix()
            self._model = self._sequence = self._prefix = None
            mx.synchronize()
            mx.clear_cache()
            self.ended.set()
            self._drain()

    def _step(self) -> bool:
        """One unit of work for one request; False when the engine is to end."""
        job = self._schedule()
        if job is None:
            return not self._stopping
        try:
            if self._sequence is None:
                self._sequence = self._begin(job)
            token = self._sequence.advance()
            self._postprocess(job, self._sequence, token)
        except Exception as error:  # the request's own; the engine goes on with the next
            self._finish(job, "error", error)
        return True

    def _schedule(self) -> Job | None:
        """The request whose turn it is, waiting for one; None if there is nothing to do."""
        if self._job is None:
            job = self._next_job()
            if job is None or not job.channel.start():
                return None
            self._job = job
        if self._job.channel.cancelled or self._stopping:
            self._finish(self._job, "cancelled")
        return self._job

    def _next_job(self) -> Job | None:
        """The next in the queue, waiting for it; the wait is used to save prefixes."""
        while self._prefix is not None and self._jobs.empty() and self._prefix.save_some():
            pass
        return self._jobs.get()

    def _close_prefix(self) -> None:
        try:
            if self._prefix is not None:
                self._prefix.close()
        except Exception as error:  # nobody waits for it, and the end must go on
            print(f"k2mlx: prefix cache: not saved ({error!r})", file=sys.stderr)

    def _begin(self, job: Job) -> Sequence:
        """The request's state before its first step, on the last one's cache where that fits."""
        assert self._model is not None
        assert self._ready is not None
        mx.reset_peak_memory()
        self._began = time.perf_counter()
        taken = self._prefix.take(job.prompt) if self._prefix is not None else Taken(None, 0)
        job.channel.stats.cached_tokens = taken.tokens
        job.channel.stats.disk_tokens = taken.from_disk
        sequence = Sequence(
            self._model,
            job.prompt,
            job.sampling,
            vocabulary=self._ready.vocabulary,
            limit=job.limit,
            chunk=self._chunk,
            cache=taken.cache,
        )
        job.channel.stats.seed = sequence.seed
        return sequence

    def _postprocess(self, job: Job, sequence: Sequence, token: int | None) -> None:
        """Tell the reader what the step brought, and end the request where it ends."""
        stats, now = job.channel.stats, time.perf_counter()
        total = stats.prompt_tokens
        if token is None:
            if job.on_progress:
                job.on_progress(sequence.filled, total)
            return
        stats.seconds = now - job.channel.submitted
        if len(sequence.tokens) == total + 1:
            stats.prompt_seconds = now - self._began
            stats.first_token_seconds = stats.seconds
            if job.on_progress:
                job.on_progress(total, total)
        if token in job.ends:
            self._finish(job, "stop")
            return
        stats.completion_tokens += 1
        job.channel.put(token)
        if stats.completion_tokens >= job.limit:
            self._finish(job, "length")

    def _finish(self, job: Job, reason: FinishReason, error: BaseException | None = None) -> None:
        sequence, self._job, self._sequence = self._sequence, None, None
        if sequence is not None:
            job.channel.stats.peak_memory = mx.get_peak_memory()
            if self._prefix is not None and error is None:
                self._prefix.keep(sequence.tokens[: sequence.filled], sequence.cache)
        job.channel.finish(reason, error)

    def _drain(self) -> None:
        """End what runs and waits when nothing will run any more."""
        if self._job is not None:
            self._job.channel.finish("error" if self._error else "cancelled", self._error)
            self._job = None
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.channel.finish("error" if self._error else "cancelled", self._error)


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

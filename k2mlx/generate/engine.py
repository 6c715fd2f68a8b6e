"""The engine: one thread on which all MLX work happens, and the queue that leads to it.

MLX's streams belong to threads, so a model is loaded, run and freed on the same one. Others submit
token ids and get a Generation to read from. `scheduler` says which request computes next.
"""

import secrets
import threading
import weakref
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

from k2mlx.config import ModelConfig
from k2mlx.errors import RequestError
from k2mlx.generate import thread
from k2mlx.generate.generation import Channel, Generation, Stats
from k2mlx.generate.info import EngineInfo
from k2mlx.generate.job import Job, Progress
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.worker import Limits, Worker
from k2mlx.load import Loaded
from k2mlx.parallel.group import Group
from k2mlx.tokenizer import Tokenizer


class Engine:
    """Loads a model on its own thread and answers requests there, several at once.

    load: called on the engine's thread. chunk: prompt tokens computed at a time. reuse: keep the
    caches of earlier requests as `prefix` says, so that a prompt computes only what is new.
    streams: requests that run at once, as far as their caches fit in `memory` bytes (None: half of
    what is free once the model is loaded); others wait their turn. speculate: guess tokens that
    repeat what came before, and check several in one step where that saves time; the tokens are the
    same (see `speculate`). wired, awake: what is asked of macOS meanwhile (see `mac`). group: the
    ranks that run this model together, each with an engine of its own; requests are submitted on
    rank 0, the others `follow`.

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
        group: Group | None = None,
    ) -> None:
        if chunk < 1:
            raise RequestError(f"chunk: got {chunk}, wanted 1 or more prompt tokens at a time")
        if streams < 1:
            raise RequestError(f"streams: got {streams}, wanted 1 or more requests at once")
        settings = (prefix or PrefixSettings()) if reuse else None
        limits = Limits(chunk, streams, memory, speculate, wired, awake)
        self._worker = Worker(load, limits, settings, group)
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
        if sampling.seed is None:  # drawn here: all ranks choose by the same
            sampling = replace(sampling, seed=secrets.randbits(32))
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

    def follow(self) -> None:
        """On every rank but 0: go along until rank 0 ends. Raises what ended it otherwise."""
        self._worker.ended.wait()
        self._worker.check()

    def fail(self, error: BaseException) -> None:
        """Every reader gets this error now, whatever the engine's thread waits for."""
        self._worker.fail(error)

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

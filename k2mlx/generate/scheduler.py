"""Which requests compute next. A step is at most a chunk of one prompt and a token of each answer.

    waiting   in the order they came, until a place and the memory are there
    filling   their prompts are computed chunk by chunk, in turn: a short prompt overtakes a long
              one, and between two chunks the answers under way go on
    decoding  alone, with guesses if they pay (sequence.py), or several in one batch (batch.py)

A request's error ends that request, and so does whatever its callback raises, SystemExit included:
else its reader would wait for ever. Everything here runs on the engine's thread.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from traceback import format_tb

import mlx.core as mx
import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.errors import RequestError
from k2mlx.generate.batch import Batch
from k2mlx.generate.generation import Channel, FinishReason
from k2mlx.generate.prefix import PrefixStore, Taken, shared_length
from k2mlx.generate.sampling import Sampling
from k2mlx.generate.sequence import Sequence
from k2mlx.generate.speculate import Costs, Drafts
from k2mlx.model import Model
from k2mlx.progress import size_words

# Answers under way wait for at most this many tokens of somebody's prompt, or a chunk.
CHUNK_BESIDE_OTHERS = 128
# From this many tokens on, a beginning that another request computes is waited for and copied.
WORTH_A_COPY = 256

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

    @property
    def length(self) -> int:
        """Tokens that it may come to hold in the cache."""
        return len(self.prompt) + self.limit

    @cached_property
    def ids(self) -> np.ndarray:
        """What of the prompt may be kept already: all but its last token."""
        return np.asarray(self.prompt[:-1], np.int32)


@dataclass(eq=False)
class Stream:
    """A request that runs."""

    job: Job
    sequence: Sequence
    began: float


@dataclass(frozen=True)
class Room:
    """What running requests may take. row: bytes of a token in the cache; memory: bytes for all."""

    row: int
    memory: int
    streams: int

    def bytes_for(self, lengths: list[int]) -> int:
        """Bytes of requests of these lengths in tokens: caches of their own, and if there are
        several the batch's, whose slots are all as long as the longest."""
        batch = len(lengths) * max(lengths) if len(lengths) > 1 else 0
        return self.row * (sum(lengths) + batch)

    def check(self, prompt: int, limit: int) -> None:
        """Raises RequestError for a request that would not fit even alone."""
        wanted = self.bytes_for([prompt + limit])
        if wanted > self.memory:
            most = self.memory // self.row
            raise RequestError(
                f"prompt of {prompt} tokens and up to {limit} more would take"
                f" {size_words(wanted)} of cache, there are {size_words(self.memory)}, room for"
                f" {most} tokens; lower max_tokens or shorten the prompt"
            )

    def fits(self, lengths: list[int], length: int) -> bool:
        """Whether one more fits beside requests of these lengths."""
        if not lengths:
            return True
        enough = self.bytes_for([*lengths, length]) <= self.memory
        return enough and len(lengths) < self.streams


class Scheduler:
    """Runs requests on one model. costs: where speculation keeps what it has measured, None for no
    speculation."""

    def __init__(
        self,
        model: Model,
        vocabulary: int,
        room: Room,
        prefix: PrefixStore | None,
        costs: Costs | None,
        chunk: int,
    ) -> None:
        self._model, self._vocabulary, self._room = model, vocabulary, room
        self._prefix, self._costs, self._chunk = prefix, costs, chunk
        self._waiting: deque[Job] = deque()
        self._filling: deque[Stream] = deque()
        self._decoding: list[Stream] = []
        self._batch: Batch | None = None

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running)

    @property
    def _running(self) -> list[Stream]:
        return [*self._filling, *self._decoding]

    def add(self, job: Job) -> None:
        """Queue a request."""
        self._waiting.append(job)

    def step(self) -> None:
        """One unit of work for each who can have it."""
        self._drop_cancelled()
        self._admit()
        if self._filling:
            self._fill()
            for stream in self._decoding:
                stream.sequence.interrupted()
        if len(self._decoding) == 1 and self._batch is None:
            self._decode_alone(self._decoding[0])
        elif self._decoding:
            self._decode_together()

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End every request: nothing will run any more."""
        jobs = [stream.job for stream in self._running]
        for job in (*jobs, *self._waiting):
            job.channel.finish(reason, error)
        self._waiting.clear()
        self._filling.clear()
        self._decoding.clear()
        self._batch = None

    def cancel_all(self) -> None:
        """As if every reader had cancelled; what was computed is kept."""
        while self._waiting:
            self._waiting.popleft().channel.finish("cancelled")
        for stream in self._running:
            self._finish(stream, "cancelled")

    def _drop_cancelled(self) -> None:
        for stream in self._running:
            if stream.job.channel.cancelled:
                self._finish(stream, "cancelled")

    def _admit(self) -> None:
        """Start requests in the order they came, as long as they fit; one whose beginning is just
        being computed for another waits until it can have it."""
        for job in list(self._waiting):
            running = [stream.job.length for stream in self._running]
            if not job.channel.cancelled and not self._room.fits(running, job.length):
                return
            if not job.channel.cancelled and self._soon_known(job):
                continue
            self._waiting.remove(job)
            if not job.channel.start():
                continue
            try:
                self._filling.append(self._begin(job))
            except BaseException as error:
                job.channel.finish("error", error)

    def _begin(self, job: Job) -> Stream:
        """The request's state before its first step, on a known beginning where there is one."""
        if not self._running:
            mx.reset_peak_memory()
        began = time.perf_counter()
        taken = self._take(job) if self._prefix is not None else Taken(None, 0)
        job.channel.stats.cached_tokens = taken.tokens
        job.channel.stats.disk_tokens = taken.from_disk
        sequence = Sequence(
            self._model,
            job.prompt,
            job.sampling,
            vocabulary=self._vocabulary,
            limit=job.limit,
            cache=taken.cache,
            drafts=Drafts(self._costs) if self._costs else None,
        )
        job.channel.stats.seed = sequence.seed
        return Stream(job, sequence, began)

    def _take(self, job: Job) -> Taken:
        """From the store, which first gets a copy of what a running request has of the prompt if
        that is more: its rows are its own until it ends."""
        assert self._prefix is not None
        prompt, best, owner = job.prompt, 0, None
        for stream in self._running:
            tokens = np.asarray(stream.sequence.tokens[: self._filled(stream)], np.int32)
            if (shared := shared_length(tokens, job.ids)) > best:
                best, owner = shared, stream
        if owner is not None and best >= WORTH_A_COPY and best > self._prefix.known(prompt):
            self._prefix.keep(prompt[:best], self._copied(owner, best))
        return self._prefix.take(prompt)

    def _keep(self, sequence: Sequence) -> None:
        assert self._prefix is not None
        try:
            self._prefix.keep(sequence.tokens[: sequence.filled], sequence.cache)
        except Exception as error:  # the answer is there, and the others' go on
            print(f"k2mlx: prefix cache: not kept ({error!r})", file=sys.stderr)

    def _soon_known(self, job: Job) -> bool:
        """Whether a prompt that is being computed begins as this one does, further than it has
        come."""
        if self._prefix is None:
            return False
        for stream in self._filling:
            shared = shared_length(stream.job.ids, job.ids)
            if shared >= WORTH_A_COPY and stream.sequence.filled < shared:
                return True
        return False

    def _filled(self, stream: Stream) -> int:
        in_batch = self._batch is not None and stream.sequence in self._batch
        return self._batch.filled(stream.sequence) if in_batch else stream.sequence.filled

    def _copied(self, stream: Stream, count: int) -> list[LatentCache]:
        """The first rows of a running request."""
        if self._batch is not None and stream.sequence in self._batch:
            cache = self._batch.copy(stream.sequence)
            for layer in cache:
                layer.trim(layer.offset - count)
            return cache
        cache = self._model.make_cache()
        for layer, source in zip(cache, stream.sequence.cache, strict=True):
            layer.extend(source.export(0, count))
        return cache

    def _fill(self) -> None:
        """A chunk of the prompt whose turn it is; without one left it decodes from now on."""
        stream = self._filling.popleft()
        sequence, job = stream.sequence, stream.job
        busy = bool(self._decoding)
        try:
            if sequence.prompt_left:
                sequence.prefill(min(self._chunk, CHUNK_BESIDE_OTHERS) if busy else self._chunk)
                if job.on_progress:
                    job.on_progress(sequence.filled, len(job.prompt))
        except BaseException as error:
            self._finish(stream, "error", error)
            return
        if sequence.prompt_left:
            self._filling.append(stream)
        else:
            self._decoding.append(stream)

    def _decode_alone(self, stream: Stream) -> None:
        try:
            self._hand_out(stream, stream.sequence.advance())
        except BaseException as error:
            self._finish(stream, "error", error)

    def _decode_together(self) -> None:
        for stream in [s for s in self._decoding if s.sequence.starts_empty]:
            self._decode_alone(stream)  # a prompt of one token; a batch takes rows
        if not self._decoding:
            return
        try:
            self._batch = self._batch or Batch(self._model, self._vocabulary)
            for stream in self._decoding:
                if stream.sequence not in self._batch:
                    self._batch.join(stream.sequence)
            found = self._batch.step()
        except BaseException as error:  # of the device: nobody's own, and the rows are lost
            self._batch = None
            for stream in list(self._decoding):
                self._finish(stream, "error", error)
            return
        streams = {id(stream.sequence): stream for stream in self._decoding}
        for sequence, token in found:
            stream = streams[id(sequence)]
            try:
                self._hand_out(stream, [token])
            except BaseException as error:
                self._finish(stream, "error", error)
        if self._batch is not None and len(self._batch) == 1:
            self._batch.leave(self._decoding[0].sequence, with_cache=True)
            self._batch = None

    def _hand_out(self, stream: Stream, tokens: list[int]) -> None:
        """Tell the reader what a step brought, and end the request where it ends."""
        job, sequence, stats = stream.job, stream.sequence, stream.job.channel.stats
        now, total = time.perf_counter(), stats.prompt_tokens
        stats.seconds = now - job.channel.submitted
        if sequence.drafts:
            stats.drafted_tokens = sequence.drafts.drafted
            stats.accepted_tokens = sequence.drafts.accepted
        if len(sequence.tokens) == total + len(tokens):
            stats.prompt_seconds = now - stream.began
            stats.first_token_seconds = stats.seconds
            if job.on_progress:
                job.on_progress(total, total)
        for i, token in enumerate(tokens):
            if token in job.ends:
                sequence.rewind(len(tokens) - i - 1)  # guesses that were right, but after the end
                self._finish(stream, "stop")
                return
            stats.completion_tokens += 1
            job.channel.put(token)
        if stats.completion_tokens >= job.limit:
            self._finish(stream, "length")

    def _finish(
        self, stream: Stream, reason: FinishReason, error: BaseException | None = None
    ) -> None:
        """End a request and keep what it computed, unless it failed."""
        sequence = stream.sequence
        keeps = self._prefix is not None and error is None
        if error is not None and error.__traceback__ is not None:
            # As text: a traceback's frames, and through them whoever has the error, keep the model.
            error.add_note("On the engine's thread:\n" + "".join(format_tb(error.__traceback__)))
            error.__traceback__ = None
        for streams in (self._filling, self._decoding):
            if stream in streams:
                streams.remove(stream)
        if self._batch is not None and sequence in self._batch:
            self._batch.leave(sequence, with_cache=keeps)
            if not len(self._batch):
                self._batch = None
        stream.job.channel.stats.peak_memory = mx.get_peak_memory()
        if keeps:
            self._keep(sequence)
        sequence.cache = []  # memory goes now, not when the reader lets go
        stream.job.channel.finish(reason, error)

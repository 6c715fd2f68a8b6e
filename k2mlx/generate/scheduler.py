"""Which requests compute next. A step is at most a chunk of one prompt and a token of each answer.

    waiting   in the order they came, until a place and the memory are there
    filling   their prompts are computed chunk by chunk, in turn: a short prompt overtakes a long
              one, and between two chunks the answers under way go on
    decoding  in lanes (lane.py): alone, with guesses if they pay, or several in one batch

A request's error ends that request, unless other ranks run along: then none may go on without the
others. Everything here runs on the engine's thread, and on all ranks alike: nothing may be decided
by what only one of them can see.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Collection

import mlx.core as mx
import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.generate.generation import FinishReason
from k2mlx.generate.job import Job, Stream
from k2mlx.generate.lane import Lane
from k2mlx.generate.prefix import PrefixStore, Taken, shared_length
from k2mlx.generate.room import Held, Room
from k2mlx.generate.sequence import Sequence
from k2mlx.generate.speculate import Costs, Drafts
from k2mlx.runner import Runner

# Answers under way wait for at most this many tokens of somebody's prompt, or a chunk.
CHUNK_BESIDE_OTHERS = 128
# From this many tokens on, a beginning that another request computes is waited for and copied.
WORTH_A_COPY = 256


class Scheduler:
    """Runs requests on one model. costs: where speculation keeps what it has measured, None for no
    speculation."""

    def __init__(
        self,
        runner: Runner,
        room: Room,
        prefix: PrefixStore | None,
        costs: Costs | None,
        chunk: int,
    ) -> None:
        self._runner, self._room, self._chunk = runner, room, chunk
        self._prefix, self._costs = prefix, costs
        self._waiting: deque[Job] = deque()
        self._filling: deque[Stream] = deque()
        self._lanes = [Lane(runner) for _ in range(runner.lanes)]

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running)

    @property
    def _decoding(self) -> list[Stream]:
        return [stream for lane in self._lanes for stream in lane.streams]

    @property
    def _running(self) -> list[Stream]:
        return [*self._filling, *self._decoding]

    def add(self, job: Job) -> None:
        """Queue a request."""
        self._waiting.append(job)

    def unwanted(self) -> list[int]:
        """The numbers of the requests whose readers want no more: to be dropped, on all ranks."""
        jobs = [*self._waiting, *(stream.job for stream in self._running)]
        return [job.number for job in jobs if job.channel.cancelled]

    def drop(self, numbers: Collection[int]) -> None:
        """End these requests; what they computed is kept."""
        for job in [job for job in self._waiting if job.number in numbers]:
            self._waiting.remove(job)
            job.channel.finish("cancelled")
        for stream in self._running:
            if stream.job.number in numbers:
                self._finish(stream, "cancelled")

    def step(self) -> None:
        """One unit of work for each who can have it."""
        self._admit()
        if self._filling:
            self._fill()
            for stream in self._decoding:
                stream.sequence.interrupted()
        for lane in self._lanes:
            self._decode(lane)
        if self.idle:
            self._runner.settle()

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End every request: nothing will run any more."""
        jobs = [stream.job for stream in self._running]
        for job in (*jobs, *self._waiting):
            job.channel.finish(reason, error)
        self._waiting.clear()
        self._filling.clear()
        for lane in self._lanes:
            lane.clear()

    def cancel_all(self) -> None:
        """As if every reader had cancelled; what was computed is kept."""
        self.drop([job.number for job in self._waiting])
        self.drop([stream.job.number for stream in self._running])
        self._runner.settle()

    def _admit(self) -> None:
        """Start requests in the order they came, as long as they fit; one whose beginning is just
        being computed for another waits until it can have it."""
        for job in list(self._waiting):
            if not self._room.fits(self._lengths, job.length, self._held):
                return
            if self._soon_known(job):
                continue
            self._waiting.remove(job)
            job.channel.start()
            try:
                self._yield_kept([*self._lengths, job.length], job.prompt)
                self._filling.append(self._begin(job))
            except BaseException as error:
                if self._runner.shared:
                    raise
                job.channel.finish("error", error)

    @property
    def _lengths(self) -> list[int]:
        return [stream.job.length for stream in self._running]

    @property
    def _held(self) -> list[Held]:
        return [lane.held for lane in self._lanes]

    def _yield_kept(self, lengths: list[int], prompt: list[int] | None = None) -> None:
        """What is kept goes first where memory is short."""
        if self._prefix is not None:
            self._prefix.shrink(self._room.for_kept(lengths, self._held), prompt)

    def _begin(self, job: Job) -> Stream:
        """The request's state before its first step, on a known beginning where there is one."""
        if not self._running:
            mx.reset_peak_memory()
        began = time.perf_counter()
        taken = self._take(job) if self._prefix is not None else Taken(None, 0)
        job.channel.stats.cached_tokens = taken.tokens
        job.channel.stats.disk_tokens = taken.from_disk
        sequence = Sequence(
            self._runner,
            job.prompt,
            job.sampling,
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
            if self._runner.shared:
                raise
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

    def _lane(self, stream: Stream) -> Lane | None:
        return next((lane for lane in self._lanes if stream in lane.streams), None)

    def _filled(self, stream: Stream) -> int:
        lane = self._lane(stream)
        return lane.filled(stream) if lane is not None else stream.sequence.filled

    def _copied(self, stream: Stream, count: int) -> list[LatentCache]:
        """The first rows of a running request."""
        lane = self._lane(stream)
        if lane is not None and (cache := lane.copied(stream)) is not None:
            for layer in cache:
                layer.trim(layer.offset - count)
            return cache
        cache = self._runner.make_cache()
        for layer, source in zip(cache, stream.sequence.cache, strict=True):
            layer.extend(source.export(0, count))
        return cache

    def _fill(self) -> None:
        """A chunk of the prompt whose turn it is; without one left it decodes from now on."""
        stream = self._filling.popleft()
        sequence, busy = stream.sequence, any(self._lanes)
        try:
            if sequence.prompt_left:
                chunk = min(self._chunk, CHUNK_BESIDE_OTHERS) if busy else self._chunk
                sequence.prefill(chunk, goes_on=not busy and not self._filling)
                stream.job.progress(sequence.filled)
        except BaseException as error:
            self._failed(stream, error)
            return
        if sequence.prompt_left:
            self._filling.append(stream)
        else:
            min(self._lanes, key=len).join(stream)

    def _decode(self, lane: Lane) -> None:
        """A step of all streams in a lane."""
        for stream in lane.alone():
            try:
                tokens = stream.sequence.advance()
            except BaseException as error:
                self._failed(stream, error)
            else:
                self._hand_out(stream, tokens)
        try:
            found = lane.together()
        except BaseException as error:  # of the device: nobody's own, and the rows are lost
            streams = list(lane.streams)
            lane.clear()
            for stream in streams:
                self._failed(stream, error)
            return
        for stream, tokens in found:
            self._hand_out(stream, tokens)
        lane.settle()
        self._level(lane)

    def _level(self, lane: Lane) -> None:
        """Take a stream over from a lane that has two more: lanes are as fast as the fullest."""
        fullest = max(self._lanes, key=len)
        if len(fullest) >= len(lane) + 2:
            stream = fullest.streams[-1]
            fullest.leave(stream, with_cache=True)
            fullest.settle()
            lane.join(stream)

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
            job.progress(total)
        for i, token in enumerate(tokens):
            if token in job.ends:
                sequence.rewind(len(tokens) - i - 1)  # guesses that were right, but after the end
                self._finish(stream, "stop")
                return
            stats.completion_tokens += 1
            job.channel.put(token)
        if stats.completion_tokens >= job.limit:
            self._finish(stream, "length")

    def _failed(self, stream: Stream, error: BaseException) -> None:
        if self._runner.shared:
            raise error
        self._finish(stream, "error", error)

    def _finish(
        self, stream: Stream, reason: FinishReason, error: BaseException | None = None
    ) -> None:
        """End a request and keep what it computed, unless it failed."""
        sequence = stream.sequence
        keeps = self._prefix is not None and error is None
        if stream in self._filling:
            self._filling.remove(stream)
        elif (lane := self._lane(stream)) is not None:
            lane.leave(stream, with_cache=keeps)
        stream.job.channel.stats.peak_memory = mx.get_peak_memory()
        if keeps:
            self._keep(sequence)
            self._yield_kept(self._lengths)
        sequence.cache = []  # memory goes now, not when the reader lets go
        stream.job.channel.finish(reason, error)

"""One request as its reader sees it: tokens as they come, cancel, and what it cost.

The engine's thread writes, any other thread or event loop reads. The engine holds the channel, the
reader the Generation: a reader that is gone (its Generation collected) cancels the request.
"""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from traceback import format_tb
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass
class Stats:
    """What one request cost. Updated while it runs; final once `finish_reason` is set.

    `cached_tokens` of the prompt's were computed before, `disk_tokens` of those read from disk.
    Units: seconds by the wall clock, bytes. `prompt_seconds` is computing the prompt, up to the
    first token; `first_token_seconds` and `seconds` count from submission, waiting included.
    `completion_tokens` leaves out the token that ended the answer. `drafted_tokens` were guessed
    and checked (`speculate`), `accepted_tokens` of them were right. `peak_memory` is MLX's
    allocator's, weights included, measured from the start of this request.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    disk_tokens: int = 0
    prompt_seconds: float = 0.0
    first_token_seconds: float = 0.0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    seconds: float = 0.0
    finish_reason: FinishReason | None = None
    peak_memory: int = 0
    seed: int | None = None

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prompt tokens computed (not taken from the cache) a second; 0 before the first token."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer after the first, a second; 0 before the second."""
        spent = self.seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / spent if self.completion_tokens > 1 and spent else 0.0


@dataclass
class Channel:
    """A one-writer, one-reader queue of token ids with an end, an error and a cancel flag."""

    stats: Stats
    submitted: float = field(default_factory=time.perf_counter)
    cancelled: bool = False
    started: bool = False
    done: bool = False
    error: BaseException | None = None
    failure: BaseException | None = None  # what its callback raised; the engine has yet to see it

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._tokens: deque[int] = deque()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def start(self) -> None:
        """Called by the engine before the first step."""
        with self._changed:
            self.started = True

    def put(self, token: int) -> None:
        with self._changed:
            self._tokens.append(token)
            self._wake()

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End the stream; the reader gets what is queued, then the error if there is one."""
        with self._changed:
            if not self.done:
                self._end(reason, error)

    def cancel(self) -> None:
        """A request that waits ends now; one that runs, after its current step."""
        with self._changed:
            self.cancelled = True
            if not self.started and not self.done:
                self._end("cancelled", None)

    def fail(self, error: BaseException) -> None:
        """Like cancel, and the reader gets this error."""
        with self._changed:
            self.cancelled, self.failure = True, error

    def abandon(self) -> None:
        """Like cancel, from a garbage collection, where no lock may be taken."""
        self.cancelled = True

    def get(self) -> int | None:
        """The next token, waiting for it; None at the end. Raises the request's error."""
        with self._changed:
            while not self._tokens and not self.done:
                self._changed.wait()
            return self._take()

    async def aget(self) -> int | None:
        """`get` for an event loop, which it does not block."""
        while True:
            with self._changed:
                if self._tokens or self.done:
                    return self._take()
                loop = asyncio.get_running_loop()
                waiter = loop.create_future()
                self._waiter = (loop, waiter)
            await waiter

    def _take(self) -> int | None:
        if self._tokens:
            return self._tokens.popleft()
        if self.error is not None:
            raise self.error
        return None

    def _end(self, reason: FinishReason, error: BaseException | None) -> None:
        if self.failure is not None:
            reason, error = "error", self.failure
        if error is not None and error.__traceback__ is not None:
            # As text: a traceback's frames, and through them whoever has the error, keep the model.
            error.add_note("On the engine's thread:\n" + "".join(format_tb(error.__traceback__)))
            error.__traceback__ = None
        self.stats.seconds = time.perf_counter() - self.submitted
        self.stats.finish_reason = reason
        self.error, self.done = error, True
        self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiter is None:
            return
        loop, waiter = self._waiter
        self._waiter = None
        try:
            loop.call_soon_threadsafe(_resolve, waiter)
        except RuntimeError:
            self.cancelled = True  # the reader's event loop is closed: nobody reads any more


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _abandon(channel: "weakref.ref[Channel]") -> None:
    if (held := channel()) is not None:
        held.abandon()


class Generation:
    """The answer to one request: iterate over its token ids, with `for` or `async for`.

    The token that ended the answer is not among them. An error on the engine's thread is raised
    here, after the tokens that came before it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        # Weakly: an error's traceback leads from the channel back to its reader.
        weakref.finalize(self, _abandon, weakref.ref(channel)).atexit = False

    @property
    def stats(self) -> Stats:
        """What it has cost so far; final once `finish_reason` is set."""
        return self._channel.stats

    @property
    def done(self) -> bool:
        """Whether the engine is done with it (tokens may still be waiting to be read)."""
        return self._channel.done

    def cancel(self) -> None:
        """Stop: at once while waiting its turn, else between two steps or two prompt chunks."""
        self._channel.cancel()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        token = self._channel.get()
        if token is None:
            raise StopIteration
        return token

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        token = await self._channel.aget()
        if token is None:
            raise StopAsyncIteration
        return token

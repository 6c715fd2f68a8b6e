"""Following an answer from the page's event loop while a thread of its own reads the model.

The thread blocks on the engine; each thing it learns is applied on the event loop, so the answer
has one writer and needs no lock. The page is told at most `UPDATES` times a second: a browser that
lays out every token falls behind the model.
"""

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Protocol

from k2mlx.agent.loop import ToolResult
from k2mlx.chat import Event
from k2mlx.errors import K2Error

from .answer import Answer, Cost

UPDATES = 8

Progress = Callable[[int, int], None]


class Turn(Protocol):
    """What `k2mlx.agent.loop.run_turn` returns, as far as it is needed here."""

    def __iter__(self) -> Iterator[Event | ToolResult]: ...
    def cancel(self) -> None: ...


class Live:
    """One answer that is being written.

    begin(on_progress): starts the turn; called on the thread, as rendering may take a while.
    streams: the model's streams so far, a list that `begin` fills; their stats are the cost.
    """

    def __init__(self, begin: Callable[[Progress], Turn], streams: list[Any]) -> None:
        self.answer = Answer()
        self._begin = begin
        self._streams = streams
        self._turn: Turn | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Stop the model as soon as possible; the answer ends with what it has. Any thread."""
        self._cancelled = True
        if self._turn is not None:
            self._turn.cancel()

    async def watch(self, updates: float = UPDATES) -> AsyncGenerator[Answer]:
        """The answer, again and again as it grows, and once more when it is done.

        Whoever stops watching (a closed tab) stops the model.
        """
        loop = asyncio.get_running_loop()
        changed, ended = asyncio.Event(), asyncio.Event()

        def note(change: Callable[..., None], *args: Any) -> None:
            change(*args)
            changed.set()
            if self.answer.done:
                ended.set()

        def tell(change: Callable[..., None], *args: Any) -> None:
            try:
                loop.call_soon_threadsafe(note, change, *args)
            except RuntimeError:  # the loop is closed: the program ends
                self.cancel()

        threading.Thread(target=self._work, args=(tell,), name="chat turn", daemon=True).start()
        try:
            while not self.answer.done:
                await changed.wait()
                changed.clear()
                self.answer.cost = Cost.of(stream.stats for stream in self._streams)
                yield self.answer
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 1 / updates)
            if changed.is_set():
                self.answer.cost = Cost.of(stream.stats for stream in self._streams)
                yield self.answer
        finally:
            self.cancel()

    def _work(self, tell: Callable[..., None]) -> None:
        answer = self.answer
        try:
            self._turn = self._begin(lambda done, total: tell(answer.read, done, total))
            if self._cancelled:  # before there was a turn to cancel
                self._turn.cancel()
            for event in self._turn:
                tell(answer.apply, event)
        except K2Error as error:
            tell(answer.fail, str(error))
        except Exception as error:  # a bug of ours: the page stays, the terminal tells where
            traceback.print_exc(file=sys.stderr)
            tell(answer.fail, f"internal error: {error!r}; the terminal has the details")
        finally:
            tell(setattr, answer, "done", True)

"""A conversation kept in memory: its turns, and which of them the model still sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k2mlx.agent.loop import run_turn
from k2mlx.agent.tools import Tool
from k2mlx.chat import render_ids

from .answer import Answer
from .live import Live, Progress

if TYPE_CHECKING:
    from k2mlx.agent.loop import Turn
    from k2mlx.generate import Engine, Sampling

Message = dict[str, Any]


@dataclass
class Exchange:
    """What the user wrote and what came of it. `messages` is how the model is told, OpenAI form."""

    question: str
    answer: Answer
    messages: list[Message] = field(default_factory=list)


def first_kept(
    turns: Sequence[Sequence[Message]],
    count: Callable[[list[Message]], int],
    room: int,
    first: int = 0,
) -> int:
    """Which turn the conversation must begin with so that the rest of it takes at most `room`.

    turns: the messages of each, oldest first. count: the tokens that messages take together.
    first: the turn it begins with so far; what was dropped does not come back. The newest turn is
    kept even if it is too long by itself: that is for the engine to report.
    """
    while first < len(turns) - 1 and count(_joined(turns[first:])) > room:
        first += 1
    return first


def _joined(turns: Sequence[Sequence[Message]]) -> list[Message]:
    return [message for turn in turns for message in turn]


class Conversation:
    """The turns so far, and the one that is being answered.

    dropped: how many of the oldest turns no longer fit the context; the page shows them, the model
    does not see them.
    """

    def __init__(self, engine: Engine) -> None:
        self.exchanges: list[Exchange] = []
        self.dropped = 0
        self.live: Live | None = None
        self._engine = engine
        self._sent: list[Message] = []  # what the model sees; the agent loop appends to it
        self._earlier = 0  # how many of these come from earlier turns
        self._dropped_before = 0

    def ask(self, question: str, tools: Mapping[str, Tool], sampling: Sampling) -> Live:
        """Begin to answer; call `finish` when it is done. The exchange is there at once."""
        assert self.live is None, "one answer at a time"
        streams: list[Any] = []

        def begin(on_progress: Progress) -> Turn:
            from k2mlx.generate import stream_chat

            def stream(*args: Any) -> Any:
                streams.append(stream_chat(*args))
                return streams[-1]

            self._gather(tools, sampling)
            return run_turn(
                self._engine, self._sent, tools, sampling, on_progress=on_progress, stream=stream
            )

        self._dropped_before = self.dropped
        self.live = Live(begin, streams)
        message = {"role": "user", "content": question}
        self.exchanges.append(Exchange(question, self.live.answer, [message]))
        return self.live

    def finish(self) -> str | None:
        """Take the answer into the conversation.

        Returns the question when nothing came of it but an error: it is then taken back, so that
        it can be changed and asked again.
        """
        exchange = self.exchanges[-1]
        self.live = None
        if exchange.answer.error and not exchange.answer.parts:
            self.exchanges.pop()
            self.dropped = self._dropped_before
            return exchange.question
        # An answer stopped before its first word would teach the model to answer with nothing.
        exchange.messages = self._sent[self._earlier :] if exchange.answer.parts else []
        return None

    def stop(self) -> None:
        """Stop the answer that is being written, if there is one."""
        if self.live is not None:
            self.live.cancel()

    def _gather(self, tools: Mapping[str, Tool], sampling: Sampling) -> None:
        """Put into `_sent` as many of the newest turns as leave room for an answer."""
        engine = self._engine
        specs = [tool.spec for tool in tools.values()]
        format = engine.config.chat_format

        def count(messages: list[Message]) -> int:
            return len(render_ids(messages, specs, engine.tokenizer, format=format))

        context = engine.info.context
        room = context - min(sampling.max_tokens, context // 2)
        turns = [exchange.messages for exchange in self.exchanges]
        self.dropped = first_kept(turns, count, room, self.dropped)
        self._sent = _joined(turns[self.dropped :])
        self._earlier = len(self._sent) - len(turns[-1])

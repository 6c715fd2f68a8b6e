"""One user turn with tools: the model writes, its calls are run, it reads the results and goes on.

The chat page and `k2mlx eval tools` use the same loop. Each round is one assistant turn:

    stream the assistant's turn -> append it to the messages
    it made calls -> run them in order, append each result -> next round; no calls -> the end

A turn ends in four other ways: cancelled, cut off by the length limit, after `max_rounds`, or when
a round makes only calls that were made twice before (a loop that small models fall into). However
it ends, every call in the messages has its result, so the conversation can go on from them. The
assistant's messages keep the tokens that they were sampled in, so that the next round's prompt
begins with exactly what this round computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from k2mlx.agent.tools import Tool, run_call
from k2mlx.chat import ArgumentDelta, CallBegin, CallEnd, End, Event, assistant_message

if TYPE_CHECKING:
    from k2mlx.generate.engine import Engine
    from k2mlx.generate.sampling import Sampling

MAX_ROUNDS = 8
MAX_SAME_CALLS = 2

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """What the tool answered to call `index`, whose id and name these are."""

    index: int
    id: str
    name: str
    content: str
    type: ClassVar[str] = "tool_result"

    def to_json(self) -> dict[str, Any]:
        """The event as a JSON object: its `type`, then its fields."""
        return {"type": self.type, **asdict(self)}


class Stream(Protocol):
    """One assistant turn as it comes: what `k2mlx.generate.chat.stream_chat` returns."""

    @property
    def stats(self) -> Any: ...
    @property
    def runs(self) -> Iterable[Iterable[int]]: ...
    def __iter__(self) -> Iterator[Event]: ...
    def cancel(self) -> None: ...


def run_turn(
    engine: Engine,
    messages: list[Message],
    tools: Mapping[str, Tool],
    sampling: Sampling,
    max_rounds: int = MAX_ROUNDS,
    *,
    thinking: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stream: Callable[..., Stream] | None = None,
) -> Turn:
    """Answer the conversation in `messages`, calling `tools` as often as the model wants.

    Iterate over the result for the events: those of all rounds, a ToolResult after each call, one
    End at the last. Calls are numbered through the turn. The assistant's and the tools' messages
    are appended to `messages` as they are complete. thinking, on_progress: as for `stream_chat`,
    which `stream` replaces in tests.

    Raises: RequestError while iterating, when the conversation no longer fits the context or the
    messages cannot be rendered; `messages` then ends with the last complete round.
    """
    if stream is None:
        from k2mlx.generate.chat import stream_chat as stream
    specs = [tool.spec for tool in tools.values()]

    def ask() -> Stream:
        return stream(engine, messages, specs, sampling, thinking, on_progress)

    return Turn(ask, messages, tools, max_rounds)


class Turn:
    """The iterator that `run_turn` returns; it can be cancelled from another thread.

    `stats` is one entry a round, what the stream measured; `rounds` counts them.
    """

    def __init__(
        self,
        ask: Callable[[], Stream],
        messages: list[Message],
        tools: Mapping[str, Tool],
        max_rounds: int,
    ):
        self.stats: list[Any] = []
        self._ask = ask
        self._messages = messages
        self._tools = tools
        self._max_rounds = max_rounds
        self._cancelled = False
        self._stream: Stream | None = None
        self._calls = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._events = self._run()

    @property
    def rounds(self) -> int:
        """Assistant turns finished so far."""
        return len(self.stats)

    def __iter__(self) -> Iterator[Event | ToolResult]:
        return self._events

    def __next__(self) -> Event | ToolResult:
        return next(self._events)

    def cancel(self) -> None:
        """Stop as soon as possible; the turn then ends with End("cancelled")."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        """Leave the turn where it is, and stop the model; no more events come."""
        self._events.close()

    def _run(self) -> Generator[Event | ToolResult]:
        end = End("cancelled")
        while not self._cancelled:
            calls, end = yield from self._round()
            stuck = bool(calls) and all(self._seen[_key(call)] > MAX_SAME_CALLS for call in calls)
            if end.finish_reason in ("length", "cancelled") or not calls or stuck:
                break
            if self.rounds >= self._max_rounds:
                break
            end = End("cancelled")  # unless another round says otherwise
        yield end

    def _round(self) -> Generator[Event | ToolResult, None, tuple[list[CallEnd], End]]:
        """One assistant turn and its calls' results. Returns (calls, its End)."""
        events: list[Event] = []
        end = End("cancelled")
        self._stream = self._ask()
        try:
            if self._cancelled:  # between the check and the stream's start
                self._stream.cancel()
            for event in self._stream:
                event = self._numbered(event)
                if isinstance(event, End):
                    end = event
                    continue
                events.append(event)
                yield event
        except GeneratorExit:
            self._stream.cancel()
            raise
        finally:
            self.stats.append(self._stream.stats)
        self._messages.append(assistant_message(events, self._stream.runs))
        # A call without a name is not in the message, so it can have no result.
        calls = [event for event in events if isinstance(event, CallEnd) and event.name]
        self._calls += sum(isinstance(event, CallEnd) for event in events)
        for call in calls:
            self._seen[_key(call)] += 1
            result = ToolResult(call.index, call.id, call.name, self._answer(call, end))
            message = {"role": "tool", "tool_call_id": call.id, "name": call.name}
            self._messages.append({**message, "content": result.content})
            yield result
        return calls, end

    def _answer(self, call: CallEnd, end: End) -> str:
        if self._cancelled or end.finish_reason == "cancelled":
            return "Error: cancelled by the user"
        if call.error is not None:
            return f"Error: {call.error}"
        if self._seen[_key(call)] > MAX_SAME_CALLS:
            return "Error: this call was made before; use the result that it gave"
        return run_call(self._tools, call.name, call.arguments)

    def _numbered(self, event: Event) -> Event:
        """The event with its call counted through the whole turn."""
        if isinstance(event, CallBegin | ArgumentDelta | CallEnd):
            return replace(event, index=event.index + self._calls)
        return event


def _key(call: CallEnd) -> tuple[str, str]:
    return call.name, call.arguments.strip()

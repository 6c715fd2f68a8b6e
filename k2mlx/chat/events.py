"""What a model's output turns into while it streams: seven kinds of event.

Order within a turn: Reasoning, Text and calls as the model writes them; a call is one CallBegin,
its ArgumentDeltas, one CallEnd; End is last and comes once. The deltas of a call add up to the
`arguments` of its CallEnd. Where a delta is cut has no meaning.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

FinishReason = Literal["stop", "tool_calls", "length", "cancelled"]


@dataclass(frozen=True)
class _Event:
    type: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The event as a JSON object: its `type`, then its fields."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True)
class Reasoning(_Event):
    """A stretch of what the model thinks before it answers."""

    text: str
    type: ClassVar[str] = "reasoning"


@dataclass(frozen=True)
class Text(_Event):
    """A stretch of the answer."""

    text: str
    type: ClassVar[str] = "text"


@dataclass(frozen=True)
class CallBegin(_Event):
    """A call's name is known. index counts the calls of this turn from 0.

    id is `functions.NAME:IDX` whatever the model wrote; both are empty when it wrote no name.
    """

    index: int
    id: str
    name: str
    type: ClassVar[str] = "call_begin"


@dataclass(frozen=True)
class ArgumentDelta(_Event):
    """A stretch of the arguments of call `index`, as the model wrote it."""

    index: int
    text: str
    type: ClassVar[str] = "argument_delta"


@dataclass(frozen=True)
class CallEnd(_Event):
    """A call is over. error is None when it is well formed: it has a name and a JSON object.

    arguments: the text as the model wrote it, also when it is not JSON.
    """

    index: int
    id: str
    name: str
    arguments: str
    error: str | None
    type: ClassVar[str] = "call_end"


@dataclass(frozen=True)
class End(_Event):
    """The turn is over. `tool_calls` when at least one call is well formed."""

    finish_reason: FinishReason
    type: ClassVar[str] = "end"


Event = Reasoning | Text | CallBegin | ArgumentDelta | CallEnd | End


class SampledMessage(dict[str, Any]):
    """An assistant's message that also knows which tokens the model wrote it in.

    runs: the ordinary tokens between markers, in order. A tokenizer would often split the same text
    otherwise, and then the caches of what the model wrote would be of no use to the next prompt.
    They are an attribute, not a key, so that a message stays what OpenAI's form says wherever it is
    written down; a copy is an ordinary dict, which costs a little computing and nothing else.
    """

    runs: tuple[tuple[int, ...], ...] = ()


def assistant_message(
    events: Iterable[Event], runs: Iterable[Iterable[int]] = ()
) -> SampledMessage:
    """The turn as a message in OpenAI's form, ready to be put into the conversation.

    `reasoning_content` and `tool_calls` are there when there is something in them. A call whose
    arguments are not JSON is kept as it is; one without a name cannot be written and is left out.
    runs: what the turn was sampled as, see SampledMessage.
    """
    content, reasoning = "", ""
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Text(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallEnd(id=call_id, name=name, arguments=arguments) if name:
                function = {"name": name, "arguments": arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
    message = SampledMessage({"role": "assistant", "content": content})
    message.runs = tuple(tuple(run) for run in runs)
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message

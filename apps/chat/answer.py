"""An answer while it grows: passages of text and tool calls in the order the model wrote them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from k2mlx.agent.loop import ToolResult
from k2mlx.chat import ArgumentDelta, CallBegin, CallEnd, End, Event, Reasoning, Text

if TYPE_CHECKING:
    from k2mlx.generate import Stats


@dataclass
class Passage:
    """Text that the model wrote in one go, as an answer or as a thought before it."""

    kind: Literal["text", "reasoning"]
    text: str


@dataclass
class Call:
    """A tool call. `arguments` is JSON as the model wrote it; `result` is None until it has run."""

    name: str
    arguments: str = ""
    result: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the tool answered with an error (the agent loop's form of one)."""
        return self.result is not None and self.result.startswith("Error:")


@dataclass(frozen=True)
class Cost:
    """What the rounds of an answer cost together. Units: tokens, tokens a second.

    `context` is what the conversation fills of the context after the last round. `prompt_tokens`
    were computed, `cached` were there from before, `from_disk` of those on disk.
    """

    context: int = 0
    tokens: int = 0
    speed: float = 0.0
    prompt_tokens: int = 0
    prompt_speed: float = 0.0
    cached: int = 0
    from_disk: int = 0

    @staticmethod
    def of(rounds: Iterable[Stats]) -> Cost:
        """The sum over rounds; a round that is still running counts with what it has."""
        rounds = list(rounds)
        if not rounds:
            return Cost()
        read = [one for one in rounds if one.prompt_seconds]
        computed = sum(one.prompt_tokens - one.cached_tokens for one in read)
        reading = sum(one.prompt_seconds for one in read)
        # The first token of a round is the prompt's work, so it is not in the writing speed.
        later = sum(max(one.completion_tokens - 1, 0) for one in rounds)
        writing = sum(
            one.seconds - one.first_token_seconds for one in rounds if one.completion_tokens > 1
        )
        return Cost(
            context=rounds[-1].prompt_tokens + rounds[-1].completion_tokens,
            tokens=sum(one.completion_tokens for one in rounds),
            speed=later / writing if writing else 0.0,
            prompt_tokens=computed,
            prompt_speed=computed / reading if reading else 0.0,
            cached=sum(one.cached_tokens for one in read),
            from_disk=sum(one.disk_tokens for one in read),
        )


@dataclass
class Answer:
    """Everything the page shows of one answer; changed by `apply` and its neighbours only."""

    parts: list[Passage | Call] = field(default_factory=list)
    finish_reason: str | None = None
    error: str | None = None
    reading: tuple[int, int] | None = None  # prompt tokens (done, total) while they are computed
    cost: Cost = Cost()
    done: bool = False
    _calls: dict[int, Call] = field(default_factory=dict)

    def apply(self, event: Event | ToolResult) -> None:
        """Take in one event of the agent loop."""
        self.reading = None
        match event:
            case Text(text):
                self._write("text", text)
            case Reasoning(text):
                self._write("reasoning", text)
            case CallBegin(index=index, name=name):
                self.parts.append(self._calls.setdefault(index, Call(name)))
            case ArgumentDelta(index=index, text=text):
                self._calls[index].arguments += text
            case CallEnd(index=index, arguments=arguments, error=error):
                call = self._calls[index]
                call.arguments = arguments
                if not call.name:  # it cannot be run, so no ToolResult will follow
                    call.result = f"Error: {error}"
            case ToolResult(index=index, content=content):
                self._calls[index].result = content
            case End(finish_reason):
                self.finish_reason = finish_reason

    def read(self, done: int, total: int) -> None:
        """Note how much of the prompt has been computed."""
        self.reading = (done, total) if done < total else None

    def fail(self, message: str) -> None:
        """Note why the answer cannot go on."""
        self.error = message

    def _write(self, kind: Literal["text", "reasoning"], text: str) -> None:
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Passage) and last.kind == kind:
            last.text += text
        else:
            self.parts.append(Passage(kind, text))

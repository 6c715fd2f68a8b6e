"""A conversation through the engine: messages and tools in, events out."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from k2mlx.chat import (
    Event,
    SampledMessage,
    StreamParser,
    assistant_message,
    reasoning_mode,
    rename_calls,
    render_ids,
    split_runs,
)
from k2mlx.generate.engine import Engine, Progress
from k2mlx.generate.generation import Generation, Stats
from k2mlx.generate.sampling import Sampling
from k2mlx.tokenizer import Tokenizer


class ChatStream:
    """The assistant's turn as it is written: iterate over its events, with `for` or `async for`.

    The last event is End, also after `cancel`. An error on the engine's thread is raised here.
    """

    def __init__(self, generation: Generation, parser: StreamParser, tokenizer: Tokenizer) -> None:
        self._generation = generation
        self._parser = parser
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._events: list[Event] = []
        self._given = 0

    @property
    def stats(self) -> Stats:
        """What the turn has cost so far."""
        return self._generation.stats

    @property
    def runs(self) -> list[list[int]]:
        """The tokens so far between markers: what `assistant_message` keeps of them."""
        return split_runs(self._tokens, self._tokenizer)

    @property
    def message(self) -> SampledMessage:
        """The turn so far as an assistant message in OpenAI's form; whole after End was given. Put
        into the conversation as it is, its tokens need not be computed again."""
        return assistant_message(self._events, self.runs)

    def cancel(self) -> None:
        """Stop writing; the events of what was written come, then End."""
        self._generation.cancel()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while self._given == len(self._events):
            if self._ended:
                raise StopIteration
            self._push(next(self._generation, None))
        return self._give()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while self._given == len(self._events):
            if self._ended:
                raise StopAsyncIteration
            self._push(await anext(self._generation, None))
        return self._give()

    @property
    def _ended(self) -> bool:
        return bool(self._events) and self._events[-1].type == "end"

    def _give(self) -> Event:
        self._given += 1
        return self._events[self._given - 1]

    def _push(self, token: int | None) -> None:
        """The events of the next token, or of the end."""
        if token is not None:
            self._tokens.append(token)
            self._events += self._parser.push(token)
            return
        reason = self.stats.finish_reason
        assert reason in ("stop", "length", "cancelled"), reason
        self._events += self._parser.finish(reason)


def stream_chat(
    engine: Engine,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    sampling: Sampling | None = None,
    thinking: bool | None = None,
    on_progress: Progress | None = None,
) -> ChatStream:
    """Have the model write the next turn of a conversation.

    messages, tools: OpenAI's form. thinking: for formats that can switch it.

    Raises: RequestError for messages or tools that are malformed or longer than the context.
    """
    tokenizer: Tokenizer = engine.tokenizer
    format = engine.config.chat_format
    ids = render_ids(messages, tools, tokenizer, format=format, thinking=thinking)
    parser = StreamParser(
        tokenizer,
        reasoning=reasoning_mode(format, thinking),
        first_call=rename_calls(messages).next_number,
    )
    return ChatStream(engine.submit(ids, sampling, on_progress), parser, tokenizer)

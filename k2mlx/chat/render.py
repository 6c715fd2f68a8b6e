"""Messages and tools to the prompt of a K2 model.

A prompt is a list of pieces: Marker (one special token) and Plain (ordinary text). Only this file
makes markers, from its own constants, so nothing in a message, a tool's declaration or a tool's
result can forge one.

The envelope, without newlines between turns:

    turn       <|im_user|> or <|im_assistant|> or <|im_system|>, name or role, <|im_middle|>, body,
               <|im_end|>
    tools      first of all, a turn of <|im_system|> named tool_declare; its body is compact JSON
               with sorted keys, for kimi-k2.5 a TypeScript namespace (see typescript; JSON too when
               none of the tools is a function)
    system     the format's default system prompt when the first message is not a system message
    result     body of a tool's turn: `## Return of ID`, newline, content
    calls      after an assistant's content: <|tool_calls_section_begin|>, then for each call
               <|tool_call_begin|> ID <|tool_call_argument_begin|> JSON <|tool_call_end|>, then
               <|tool_calls_section_end|>
    reasoning  (kimi-k2-thinking, kimi-k2.5) <think>...</think> before an assistant's content,
               emptied up to the last assistant message without calls: the model sees again only
               what it thought in the turn under way, and with thinking=False not even that
    header     of the turn to be written: <|im_assistant|>assistant<|im_middle|>; kimi-k2.5 adds
               <think>, or <think></think> when thinking is False
    image      media begin, `image`, <|media_content|><|media_pad|><|media_end|> and a newline (an
               accident of Kimi's templates, but what the model has seen); only as text, for k2mlx
               runs no vision tower

Calls get K2's ids first (see call_ids). Arguments given as text are copied, given as an object they
are dumped. A lone surrogate, which no tokenizer can express, becomes U+FFFD.

An assistant's message that a model here has just written (events.SampledMessage) gets the very
tokens it was sampled in, wherever they spell what is rendered, byte for byte; so the prompt says
the same with them and without, only the splits differ, and what was computed need not be again.

Source: k2-spec 4.2 and 4.3; the chat templates of Kimi-K2-Thinking and K2.5. The prompts in
tests/golden pin the bytes of those two but for images and thinking=False.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from k2mlx.chat.call_ids import rename_calls
from k2mlx.chat.events import SampledMessage
from k2mlx.chat.formats import Format, find_format
from k2mlx.chat.messages import Message, ToolSpec, check_messages, check_tools, is_image
from k2mlx.chat.typescript import declare_tools
from k2mlx.errors import RequestError
from k2mlx.tokenizer import Tokenizer, utf8

ROLE_MARKERS = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}


@dataclass(frozen=True)
class Marker:
    """One special token of the prompt."""

    text: str


@dataclass(frozen=True)
class Plain:
    """A stretch of ordinary text, encoded by itself: no token reaches across a marker.

    runs: of the message that it belongs to, if that was sampled here.
    """

    text: str
    runs: tuple[tuple[int, ...], ...] = field(default=(), compare=False, repr=False)


Piece = Marker | Plain


def render(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None = None,
    *,
    format: str,
    thinking: bool | None = None,
    generation_prompt: bool = True,
    rename_ids: bool = True,
) -> list[Piece]:
    """The prompt that a conversation becomes.

    thinking: only K2.5 listens to it, None is True; the other formats have no such switch.
    generation_prompt: end with the header of the assistant's turn that the model is to write.
    rename_ids: give foreign calls K2's ids; False writes every id as it is, as Kimi's templates do.

    Raises: RequestError for an unknown format, for messages or tools of the wrong shape and for
    tools that cannot be declared in TypeScript.
    """
    dialect = find_format(format)
    thinks = thinking is not False or not dialect.switchable
    prompt = _compose(messages, tools, dialect, thinks, rename_ids)
    if generation_prompt:
        prompt.header("assistant", "assistant")
        if dialect.switchable:
            prompt.marker("<think>")
            if not thinks:
                prompt.marker("</think>")
    return prompt.pieces


def render_ids(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: Tokenizer,
    *,
    format: str,
    thinking: bool | None = None,
    generation_prompt: bool = True,
) -> list[int]:
    """Token ids of `render`; see there."""
    pieces = render(
        messages, tools, format=format, thinking=thinking, generation_prompt=generation_prompt
    )
    return pieces_to_ids(pieces, tokenizer)


def render_for_training(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    tokenizer: Tokenizer,
    *,
    format: str,
) -> tuple[list[int], list[bool]]:
    """Token ids of a whole conversation, and for each whether the model is to learn to produce it.

    It learns each assistant turn after its header: content, call markers, ids, arguments,
    <|im_end|>. It does not learn a message with `"loss": False`, nor the empty `<think></think>`
    that stands in history for reasoning left out, nor a <think> that the prompt opens (K2.5).

    Shapes: two lists of one length; loss[i] speaks of ids[i] as a target.
    """
    prompt = _compose(messages, tools, find_format(format), thinking=True, rename_ids=True)
    ids: list[int] = []
    loss: list[bool] = []
    for piece, produced in zip(prompt.pieces, prompt.produced, strict=True):
        tokens = pieces_to_ids([piece], tokenizer)
        ids += tokens
        loss += [produced] * len(tokens)
    return ids, loss


def pieces_to_text(pieces: Iterable[Piece]) -> str:
    """The prompt as it reads, markers spelled out: for people. A model gets pieces_to_ids."""
    return "".join(piece.text for piece in pieces)


def pieces_to_ids(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[int]:
    """Token ids of the pieces.

    Raises: RequestError for an image, which k2mlx cannot show to a model, and for a marker that the
    tokenizer does not have.
    """
    ids: list[int] = []
    turn = _SampledTurn()
    for piece in pieces:
        if isinstance(piece, Plain):
            if piece.runs is not turn.runs:
                turn = _SampledTurn(piece.runs)
            ids += turn.next(piece.text, tokenizer) or tokenizer.encode(piece.text)
        elif piece.text == "<|media_pad|>":
            raise RequestError(
                "messages: got an image, but k2mlx cannot see images; send text only"
            )
        elif (token := tokenizer.special.get(piece.text)) is not None:
            ids.append(token)
        else:
            raise RequestError(
                f"{piece.text}: this model's vocabulary has no such marker; choose the chat format "
                "that belongs to the model"
            )
    return ids


def split_runs(tokens: Iterable[int], tokenizer: Tokenizer) -> list[list[int]]:
    """The ordinary tokens between the markers of what a model wrote, in order."""
    markers = set(tokenizer.special.values())
    groups = groupby(tokens, key=lambda token: token in markers)
    return [list(run) for is_marker, run in groups if not is_marker]


@dataclass
class _SampledTurn:
    """The runs of one assistant's message, given out in order: a turn may well hold one text twice,
    split differently."""

    runs: tuple[tuple[int, ...], ...] = ()
    used: int = 0

    def next(self, text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The next run that spells the text; none when the text was edited, was cut within a
        character, or is another tokenizer's."""
        wanted = utf8(text) if self.runs else b""
        for index in range(self.used, len(self.runs)):
            if _spells(self.runs[index], wanted, tokenizer):
                self.used = index + 1
                return self.runs[index]
        return ()


def _spells(run: tuple[int, ...], wanted: bytes, tokenizer: Tokenizer) -> bool:
    if not run or not 0 <= min(run) <= max(run) < tokenizer.vocab_size:
        return False
    parts = [tokenizer.token_bytes(token) for token in run]
    return all(parts) and b"".join(parts) == wanted  # a marker has no bytes


@dataclass
class _Prompt:
    """Pieces so far; produced[i] tells whether the assistant wrote pieces[i] and is to learn it.

    runs: of the assistant's message that is being written.
    """

    pieces: list[Piece] = field(default_factory=list)
    produced: list[bool] = field(default_factory=list)
    learn: bool = False
    runs: tuple[tuple[int, ...], ...] = ()

    def marker(self, text: str) -> None:
        self.pieces.append(Marker(text))
        self.produced.append(self.learn)

    def plain(self, text: str) -> None:
        if not text:
            return
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self.pieces and isinstance(last := self.pieces[-1], Plain):
            self.pieces[-1] = Plain(last.text + text, self.runs)
            return
        self.pieces.append(Plain(text, self.runs))
        self.produced.append(self.learn)

    def header(self, role: str, name: str) -> None:
        self.marker(ROLE_MARKERS.get(role, "<|im_system|>"))
        self.plain(name)
        self.marker("<|im_middle|>")

    def turn(self, role: str, name: str, body: str) -> None:
        self.header(role, name)
        self.plain(body)
        self.marker("<|im_end|>")


def _compose(
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None,
    format: Format,
    thinking: bool,
    rename_ids: bool,
) -> _Prompt:
    check_messages(messages)
    check_tools(tools)
    if rename_ids:
        messages = rename_calls(messages).messages
    prompt = _Prompt()
    if tools:
        prompt.turn("system", "tool_declare", _declaration(tools, format))
    if format.default_system and (not messages or messages[0]["role"] != "system"):
        prompt.turn("system", "system", format.default_system)
    history = _history_length(messages)
    calls = 0
    for index, message in enumerate(messages):
        prompt.header(message["role"], message.get("name") or message["role"])
        if message["role"] == "assistant":
            under_way = index >= history
            prompt.runs = message.runs if isinstance(message, SampledMessage) else ()
            _assistant_body(prompt, message, calls, format, reasons=thinking and under_way)
            prompt.runs = ()
            calls += len(message.get("tool_calls") or ())
        else:
            if message["role"] == "tool":
                prompt.plain(f"## Return of {message['tool_call_id']}\n")
            _content(prompt, message.get("content"), format)
            prompt.marker("<|im_end|>")
    return prompt


def _declaration(tools: Sequence[ToolSpec], format: Format) -> str:
    compact = _dump(tools, separators=(",", ":"), sort_keys=True)
    return (format.typescript and declare_tools(json.loads(compact))) or compact


def _history_length(messages: Sequence[Message]) -> int:
    """Messages before the turn under way: up to the last assistant message without calls."""
    for index in reversed(range(len(messages))):
        if messages[index]["role"] == "assistant" and not messages[index].get("tool_calls"):
            return index + 1
    return 0


def _assistant_body(
    prompt: _Prompt, message: Message, first_call: int, format: Format, *, reasons: bool
) -> None:
    supervised = message.get("loss") is not False
    if format.history_reasoning:
        prompt.learn = supervised and reasons and not format.switchable
        prompt.marker("<think>")
        prompt.learn = supervised and reasons
        prompt.plain((reasons and message.get("reasoning_content")) or "")
        prompt.marker("</think>")
    prompt.learn = supervised
    _content(prompt, message.get("content"), format)
    if calls := message.get("tool_calls"):
        prompt.marker("<|tool_calls_section_begin|>")
        for index, call in enumerate(calls, start=first_call):
            _call(prompt, call, index)
        prompt.marker("<|tool_calls_section_end|>")
    prompt.marker("<|im_end|>")
    prompt.learn = False


def _call(prompt: _Prompt, call: Message, index: int) -> None:
    function = call["function"]
    arguments = function["arguments"]
    prompt.marker("<|tool_call_begin|>")
    prompt.plain(call.get("id") or f"functions.{function['name']}:{index}")
    prompt.marker("<|tool_call_argument_begin|>")
    prompt.plain(arguments if isinstance(arguments, str) else _dump(arguments))
    prompt.marker("<|tool_call_end|>")


def _content(prompt: _Prompt, content: Any, format: Format) -> None:
    if isinstance(content, str):
        prompt.plain(content)
        return
    for part in content or ():
        if is_image(part):
            prompt.marker(format.image_begin)
            prompt.plain("image")
            prompt.marker("<|media_content|>")
            prompt.marker("<|media_pad|>")
            prompt.marker("<|media_end|>")
            prompt.plain("\n")
        else:
            prompt.plain(part["text"])


def _dump(value: Any, **options: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"tools or arguments: not JSON ({error})") from error

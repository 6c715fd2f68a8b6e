"""All HTML of the page: escaped text, cards of tool calls, what an answer cost, the model's facts.

Whatever a user, a model or a tool wrote goes through `escape`; nothing else builds HTML. The text
is shown as it was written, not as Markdown: 2*3*4 must not become 2, an italic 3 and 4.
"""

import json
from html import escape
from typing import Any, Protocol

from .answer import Answer, Call, Cost, Passage
from .conversation import Conversation, Exchange

TITLES = {"calculator": "Calculator", "clock": "Clock", "convert_units": "Unit conversion"}

_FINISH = {"length": "cut off at the token limit", "cancelled": "stopped"}


class Info(Protocol):
    """What is told about the model: `k2mlx.generate.EngineInfo`."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def device(self) -> str: ...


def count(value: float, unit: str = "") -> str:
    """A number a person can read: 942, 52.1 M, 1.03 T; with a unit, 31.4 MB."""
    names = ("", "k", "M", "G", "T") if unit else ("", "k", "M", "B", "T")
    power = 0
    while value >= 999.5 and power < len(names) - 1:
        value, power = value / 1000, power + 1
    digits = f"{value:.0f}" if power == 0 or value >= 100 else f"{value:.3g}"
    return f"{digits} {names[power]}{unit}".strip()


def header_html(info: Info) -> str:
    """The model's name, its facts, and an honest word on what to expect of it."""
    facts = [
        f"{count(info.parameters)} parameters",
        count(info.bytes, "B"),
        f"{info.context:,} tokens of context",
        f"runs on the {info.device.upper()}",
    ]
    chips = "".join(f'<span class="k2-chip">{escape(fact)}</span>' for fact in facts)
    return (
        f'<div class="k2-header"><h1>{escape(info.name)}</h1><div class="k2-chips">{chips}</div>'
        f'<p class="k2-honest">{escape(honest_word(info))}</p></div>'
    )


def honest_word(info: Info) -> str:
    """What a stranger should know before believing the model."""
    if info.bytes >= 1e9:
        return "It runs on this machine only. It can be wrong: check what matters."
    return (
        f"This is a {info.bytes / 1e6:.0f} MB model: it writes simple English, knows little and is"
        " often wrong. For sums, times and units it asks the tools below."
    )


def history(conversation: Conversation, *, live: bool) -> list[dict[str, Any]]:
    """The conversation as messages of a Gradio Chatbot; without the answer being written if live.

    Where the oldest turns have left the model's context, a line says so.
    """
    messages: list[dict[str, Any]] = []
    last = len(conversation.exchanges) - 1
    for i, exchange in enumerate(conversation.exchanges):
        if i == conversation.dropped and i > 0:
            messages.append(_message("assistant", dropped_html(i)))
        messages.append(_message("user", question_html(exchange)))
        if not (live and i == last):
            messages.append(_message("assistant", answer_html(exchange.answer)))
    return messages


def live_messages(answer: Answer | None) -> list[dict[str, Any]]:
    """The answer being written as the one message of a Gradio Chatbot."""
    return [] if answer is None else [_message("assistant", answer_html(answer))]


def _message(role: str, html: str) -> dict[str, Any]:
    return {"role": role, "content": html}


def question_html(exchange: Exchange) -> str:
    """What the user wrote."""
    return _text(exchange.question)


def dropped_html(turns: int) -> str:
    """The line above which the model sees nothing any more."""
    what = "message and its answer are" if turns == 1 else f"{turns} messages and their answers are"
    return (
        '<div class="k2-dropped">The context is full: the model no longer sees what is above.'
        f" (The oldest {what} left out.)</div>"
    )


def answer_html(answer: Answer) -> str:
    """One answer: its parts in order, then what is going on, or what it cost."""
    parts = [_part(part, last=part is answer.parts[-1]) for part in answer.parts]
    if answer.error:
        parts.append(f'<div class="k2-error" role="alert">{escape(answer.error)}</div>')
    parts.append(_footer(answer) if answer.done else _activity(answer))
    return "".join(parts)


def _part(part: Passage | Call, *, last: bool) -> str:
    if isinstance(part, Call):
        return card_html(part)
    if part.kind == "reasoning":
        state = " open" if last else ""
        thought = f"<summary>Thinking</summary>{_text(part.text)}"
        return f'<details class="k2-thought"{state}>{thought}</details>'
    # What stands around a tool call is blank lines as often as not.
    text = part.text if last else part.text.strip()
    return _text(text) if text.strip() else ""


def _text(text: str) -> str:
    return f'<div class="k2-text">{escape(text)}</div>'


def card_html(call: Call) -> str:
    """A tool call: its name, its arguments and, once it has run, its result."""
    state = "running" if call.result is None else "failed" if call.failed else "done"
    title = TITLES.get(call.name, call.name or "unnamed tool")
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _arguments(call)
    )
    result = ""
    if call.result is not None:
        result = f'<div class="k2-result"><span>result</span><b>{escape(call.result)}</b></div>'
    return (
        f'<div class="k2-card k2-{state}"><div class="k2-tool"><b>{escape(title)}</b>'
        f'<span class="k2-state">{state}</span></div><dl>{rows}</dl>{result}</div>'
    )


def _arguments(call: Call) -> list[tuple[str, str]]:
    """(name, value) of each argument; while they are being written, or broken, the raw text."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return [("arguments", call.arguments)] if call.arguments else []
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in arguments.items()
    ]


def _activity(answer: Answer) -> str:
    """What the model is doing now, while nothing of it can be read yet or besides what can."""
    cost = answer.cost
    if answer.reading is not None:
        done, total = answer.reading
        return (
            '<div class="k2-activity"><span class="k2-bar">'
            f'<i style="width:{100 * done // total}%"></i></span>'
            f"reading the prompt, {done:,} of {total:,} tokens</div>"
        )
    if not cost.tokens:
        return '<div class="k2-activity"><span class="k2-dots"></span>reading the prompt</div>'
    return f'<div class="k2-activity"><span class="k2-dots"></span>{_speed(cost)}</div>'


def _footer(answer: Answer) -> str:
    """What the answer cost, and how it ended if not by itself."""
    cost, parts = answer.cost, []
    if answer.finish_reason in _FINISH:
        parts.append(_FINISH[answer.finish_reason])
    if cost.tokens:
        parts.append(_speed(cost))
    if cost.prompt_speed:
        parts.append(f"prompt {cost.prompt_tokens:,} tokens at {cost.prompt_speed:,.0f}/s")
    if cost.cached:
        disk = f" ({cost.from_disk:,} on disk)" if cost.from_disk else ""
        parts.append(f"{cost.cached:,} kept from before{disk}")
    return f'<div class="k2-cost">{" · ".join(parts)}</div>' if parts else ""


def _speed(cost: Cost) -> str:
    tokens = f"{cost.tokens:,} token{'s' * (cost.tokens != 1)}"
    return f"{tokens} · {cost.speed:,.0f} tokens/s" if cost.speed else tokens


def context_html(used: int, context: int) -> str:
    """How much of the context the conversation fills."""
    percent = min(100 * used // context, 100)
    return (
        f'<div class="k2-context" title="The oldest messages are left out when it is full">'
        f'<span class="k2-bar"><i style="width:{percent}%"></i></span>'
        f"{used:,} of {context:,} tokens of context</div>"
    )


def problem_html(message: str) -> str:
    """Why the message could not be answered."""
    return f'<div class="k2-error" role="alert">{escape(message)}</div>'

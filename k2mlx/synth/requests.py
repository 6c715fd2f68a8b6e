"""A request for a declared tool: the user's words, the call they ask for, its result and the answer."""

# ruff: noqa: E501  (a phrase reads best on one line)

import json
import re
from dataclasses import dataclass
from random import Random

from k2mlx.synth.arithmetic import in_words
from k2mlx.synth.catalogue import Parameter
from k2mlx.synth.declare import Declared, fill, result_of
from k2mlx.synth.phrasing import Scope, render, slots, typed
from k2mlx.synth.talk import Call

IMPERATIVE: tuple[str, ...] = (
    "{X}", "{X}", "{X}", "{X}.", "please {X}", "{X} please", "{X}, please.", "can you {X}?", "can you {X}?",
    "could you {X}?", "could you please {X}?", "would you {X}?", "I want you to {X}", "I'd like you to {X}.",
    "[hey|hi|hello], {X}", "[hey|hi|hello], can you {X}?", "I need you to {X}", "go ahead and {X}",
    "can you {X} for me?", "would you mind? {X}", "I want to {X}", "I need to {X}.", "I would like to {X}",
    "help me {X}", "let's {X}", "ok, {X}", "now {X}", "[quickly|just] {X}", "{X}, thanks", "time to {X}",
    "will you {X}?", "is it possible to {X}?", "it would be great if you could {X}", "{X} now",
)  # fmt: skip
NOUN: tuple[str, ...] = (
    "what is {X}?", "what's {X}?", "tell me {X}", "show me {X}", "give me {X}", "I need {X}", "{X}", "{X}?",
    "{X} please", "can you tell me {X}?", "could you find {X}?", "find {X}", "get {X}", "get me {X}",
    "I want to know {X}", "I'd like to know {X}.", "look up {X}", "check {X}", "can you check {X}?",
    "do you know {X}?", "please tell me {X}", "[hi|hey|hello], what is {X}?", "let me see {X}",
    "can you get me {X}?", "I am looking for {X}", "can I have {X}?", "could you give me {X}?",
)  # fmt: skip
_CLOSERS = ("Done.", "It is done.", "Okay, done.", "All right, that is done.", "Done!")
# Sentences around a request, which ask for nothing.
_BEFORE: tuple[str, ...] = (
    "I am in a hurry.", "My {relative} is visiting[ next week|].", "I have a busy day.", "I'm planning my week.", "We have guests tonight.",
    "I am quite tired today.", "This is important.", "I forgot about it.", "I hope you can help me.", "It is for my {relative}.",
    "I just got home.", "My {relative} asked me.", "I was thinking about it all day.", "Good morning!", "Hello!", "Hi there.",
    "We are leaving soon.", "I have a question.", "I need some help.", "I can't find it myself.", "One more thing.",
    "So, I talked to my {relative}.", "I am new here.", "It's my first time using this.", "I don't have much time.",
)  # fmt: skip
_AFTER: tuple[str, ...] = ("Thanks!", "Thank you.", "It is urgent.", "Thanks in advance.", "Please be quick.", "That would help me a lot.", "I am waiting.")  # fmt: skip


@dataclass
class Request:
    """`values` are the JSON values by slot, `written` the same as the user writes them."""

    text: str
    call: Call
    values: Scope
    written: Scope
    fields: Scope


def draw_request(
    tool: Declared,
    rng: Random,
    phrase: tuple[str, str] | None = None,
    given: dict[str, tuple[str, object]] | None = None,
    framed: bool = True,
) -> Request:
    """Words and call for a tool.

    `phrase` is (mark, body) instead of one of the tool's own, `given` fixes some slots as (written,
    value), `framed` puts polite words around an imperative or a noun phrase.
    """
    mark, body = phrase or rng.choice(tool.template.phrases)
    filled = dict(given or {})
    for slot, parameter in tool.kinds.items():
        if slot not in filled and parameter.kind != "bool" and "{" + slot + "}" in body:
            filled[slot] = _distinct(parameter, filled, rng)
    marks: Scope = {slot: f"\x00{slot}\x00" for slot in filled}
    scope = dict(marks)
    text = render(body, scope, rng)
    values: Scope = {}
    written: Scope = {}
    for slot in tool.kinds:
        if slot in filled and f"\x00{slot}\x00" in text:
            shown, values[slot] = filled[slot]
            spoken = _spoken(text, slot, values[slot], rng) if slot not in (given or {}) else None
            text = text.replace(f"\x00{slot}\x00", spoken or shown)
            written[slot] = shown
        elif slot in scope and scope[slot] != marks.get(slot):
            implied = str(scope[slot])
            values[slot] = {"true": True, "false": False}.get(implied, implied)
            written[slot] = implied
    if framed:
        frames = {"!": IMPERATIVE, "~": NOUN, ">": ("{X}",)}[mark]
        text = render(rng.choice(frames), {"X": text}, rng)
    elif mark == "~":
        text = rng.choice(("tell me ", "show me ", "give me ", "find ", "I need ")) + text
    text = typed(text, rng) if "\n" not in text else text
    fields, _ = result_of(tool.template, {**written, **values}, rng)
    call = Call(tool.name, tool.arguments(values), result_text(fields, rng))
    return Request(text, call, values, written, fields)


def surrounded(text: str, rng: Random) -> str:
    """Sometimes a sentence before or after the request that asks for nothing."""
    chance = rng.random()
    if chance < 0.07:
        # The request keeps its case: values are copied from it.
        return f"{render(rng.choice(_BEFORE), {}, rng)} {text}"
    if chance < 0.10 and text[-1] in ".?!":
        return f"{text} {rng.choice(_AFTER)}"
    return text


def answer(tool: Declared, request: Request, rng: Random) -> str:
    """What is said after the result: an answer template whose slots are all known."""
    known = {**request.written, **request.fields}
    fitting = [a for a in tool.template.answers if slots(a) <= set(known)]
    if not fitting:
        return rng.choice(_CLOSERS)
    text = render(rng.choice(fitting), known, rng)
    return text if text[-1] in '.!?"' else text + "."


def result_text(fields: Scope, rng: Random) -> str:
    """The tool's answer as text: mostly JSON."""
    if not fields:
        return rng.choice(('{"status": "ok"}', "ok", "done", '{"success": true}'))
    if len(fields) == 1 and rng.random() < 0.3:
        return str(next(iter(fields.values())))
    if rng.random() < 0.12:
        return ", ".join(f"{key}: {value}" for key, value in fields.items())
    return json.dumps(fields, ensure_ascii=False)


def _distinct(
    parameter: Parameter, filled: dict[str, tuple[str, object]], rng: Random
) -> tuple[str, object]:
    taken = {shown for shown, _ in filled.values()}
    value = fill(parameter, rng)
    for _ in range(5):
        if value[0] not in taken:
            break
        value = fill(parameter, rng)
    return value


def _spoken(text: str, slot: str, value: object, rng: Random) -> str | None:
    """A small integer in words, where it stands alone between blanks: `a table for four`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:
        return None
    if rng.random() > (0.2 if value <= 12 else 0.08):
        return None
    alone = re.search(rf"(^| )\x00{slot}\x00($|[ .,?!])(?![-+*/x%=^])", text)
    return in_words(value) if alone else None

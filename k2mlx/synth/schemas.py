"""Function calling over the whole tool universe: the model must read the schema, not remember it."""

# ruff: noqa: E501  (a phrase reads best on one line)

import json
from dataclasses import dataclass
from random import Random

from k2mlx.synth.catalogue import Template, templates
from k2mlx.synth.declare import Declared, declare, fill, result_of
from k2mlx.synth.phrasing import Scope, render, slots, typed
from k2mlx.synth.rivals import alike
from k2mlx.synth.talk import Call, Talk

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
_REFUSALS: tuple[str, ...] = (
    "Sorry, I have no tool for that.", "I cannot do that with the tools I have.",
    "I am sorry, none of my tools can do that.", "That is not something I can do here.",
    "Sorry, I can't help with that: my tools are for other things.",
    "I don't have a tool for this. Can I help with something else?",
    "I'm afraid I cannot do that. I can only [help with|use] {known}.",
    "There is no tool for that here. I only have {known}.",
    "No tool of mine fits that, sorry.", "I can't look that up with what I have here.",
)  # fmt: skip
_SYSTEMS: tuple[str, ...] = (
    "You are a helpful assistant.", "You are a helpful assistant with access to functions.",
    "Use the tools when they help.", "You are an assistant. Call a function only if it fits the request.",
    "You are a friendly assistant. Answer briefly.", "Answer the user. Use tools if needed.",
)  # fmt: skip
_THANKS = (
    "thanks",
    "thank you!",
    "great, thanks",
    "perfect",
    "cool, thank you",
    "ok thanks",
    "thanks a lot",
)
_WELCOMES = (
    "You're welcome!",
    "Any time.",
    "Happy to help.",
    "You are welcome.",
    "Glad I could help.",
    "My pleasure.",
)


@dataclass
class Request:
    """A request in words with the call that it asks for."""

    text: str
    call: Call
    scope: Scope
    fields: Scope


def draw_schemas(rng: Random) -> Talk:
    """Any conversation of this kind."""
    chance = rng.random()
    if chance < 0.56:
        return single(rng)
    if chance < 0.72:
        return parallel(rng)
    if chance < 0.86:
        return irrelevant(rng)
    if chance < 0.92:
        return missing(rng)
    return several_turns(rng)


def single(rng: Random) -> Talk:
    """One request, one call, its result and the answer."""
    tool = declare(rng.choice(templates()), rng)
    talk = _opened([tool], rng)
    request = _request(tool, rng)
    talk.user(request.text)
    talk.call(request.call)
    talk.answer(_answer(tool, request, rng))
    if rng.random() < 0.06:
        talk.user(rng.choice(_THANKS))
        talk.answer(rng.choice(_WELCOMES))
    return talk


def several_turns(rng: Random) -> Talk:
    """Two or three requests after one another, for the same tool or others that are declared."""
    tools = [declare(t, rng) for t in rng.sample(templates(), 2)]
    talk = _opened(tools, rng)
    for _ in range(rng.choice((2, 2, 3))):
        tool = rng.choice(tools)
        request = _request(tool, rng)
        talk.user(request.text)
        talk.call(request.call)
        talk.answer(_answer(tool, request, rng))
    return talk


def parallel(rng: Random) -> Talk:
    """Two or three calls in one turn: one tool with other values, or different tools."""
    if rng.random() < 0.6:
        return _parallel_same(rng)
    tools = [declare(t, rng) for t in rng.sample(templates(), rng.choice((2, 2, 2, 3)))]
    talk = _opened(tools, rng)
    requests = [_request(tool, rng, plain=True) for tool in tools]
    joint = rng.choice((" and ", ", and ", ". also, ", ", then ", " and also ", "; ", " and then "))
    talk.user(typed(joint.join(r.text.rstrip(".?! ") for r in requests), rng))
    talk.call(*(request.call for request in requests))
    talk.answer(" ".join(_answer(t, r, rng) for t, r in zip(tools, requests, strict=True)))
    return talk


def _parallel_same(rng: Random) -> Talk:
    """The same request with one value changed: `the weather in Oslo and in Rome`."""
    while True:
        template = rng.choice(templates())
        varied = [
            p
            for p in template.parameters
            if not p.optional and p.kind in ("str", "int", "num", "enum")
        ]
        phrases = [
            x for x in template.phrases if varied and "{" + varied[-1].names[0] + "}" in x[1]
        ]
        if phrases:
            break
    tool = declare(template, rng)
    slot = rng.choice([p for p in varied if any("{" + p.names[0] + "}" in x[1] for x in phrases)])
    phrases = [x for x in phrases if "{" + slot.names[0] + "}" in x[1]]
    values: list[tuple[str, object]] = []
    while len(values) < rng.choice((2, 2, 2, 3)):
        value = fill(slot, rng)
        if value not in values:
            values.append(value)
        elif slot.kind == "enum":
            break
    shown = [value[0] for value in values]
    listed = " and ".join(shown) if len(shown) < 3 else ", ".join(shown[:-1]) + " and " + shown[-1]
    phrase = rng.choice(phrases)
    base = _request(tool, rng, phrase=phrase, given={slot.names[0]: (listed, values[0][1])})
    talk = _opened([tool], rng)
    talk.user(base.text)
    key, calls, answers = tool.keys[slot.names[0]], [], []
    for written, value in values:
        scope = {**base.scope, slot.names[0]: written}
        fields, _ = result_of(template, scope, rng)
        call = Call(tool.name, {**base.call.arguments, key: value}, _result_text(fields, rng))
        calls.append(call)
        answers.append(_answer(tool, Request("", call, scope, fields), rng))
    talk.call(*calls)
    talk.answer(" ".join(answers))
    return talk


def irrelevant(rng: Random) -> Talk:
    """The request fits none of the declared tools: a short answer without a call."""
    wanted, *others = rng.sample(templates(), rng.choice((2, 2, 3, 4)))
    # A tool of a similar purpose would make the refusal wrong.
    others = [t for t in others if not alike(wanted, t)] or [
        next(t for t in templates() if not alike(wanted, t))
    ]
    declared = [declare(t, rng) for t in others]
    talk = _opened(declared, rng, exclude=wanted, distractors=len(declared) < 2)
    talk.user(_request(declare(wanted, rng), rng).text)
    known = rng.choice([spec["function"]["name"] for spec in talk.tools])
    talk.answer(render(rng.choice(_REFUSALS), {"known": known}, rng))
    return talk


def missing(rng: Random) -> Talk:
    """A required value is missing: the assistant asks, the user tells, the call follows."""
    template = rng.choice([t for t in templates() if t.missing])
    tool = declare(template, rng)
    request, question, reply = rng.choice(template.missing)
    talk = _opened([tool], rng)
    phrase = (">" if rng.random() < 0.5 else "!", request + "\n" + reply)
    whole = _request(tool, rng, phrase=phrase)
    first, _, second = whole.text.partition("\n")
    talk.user(typed(first, rng))
    talk.answer(render(question, dict(whole.scope), rng))
    talk.user(second.strip())
    talk.call(whole.call)
    talk.answer(_answer(tool, whole, rng))
    return talk


def request_text(template: Template, rng: Random) -> str:
    """Only the words of a request for a tool."""
    return _request(declare(template, rng), rng).text


def _opened(
    tools: list[Declared], rng: Random, exclude: Template | None = None, distractors: bool = True
) -> Talk:
    """A talk that declares the tools among distractors, with or without a system message."""
    taken = [tool.template for tool in tools] + ([exclude] if exclude else [])
    names = {tool.name for tool in tools}
    specs = [tool.spec for tool in tools]
    wanted = rng.choice((0, 0, 1, 1, 1, 2, 2, 3)) if distractors else 0
    near = [t for t in templates() if t.domain == taken[0].domain]
    for _ in range(wanted):
        other = rng.choice(near if rng.random() < 0.5 else templates())
        if any(alike(other, t) for t in taken):
            continue
        extra = declare(other, rng)
        if extra.name not in names:
            names.add(extra.name)
            taken.append(other)
            specs.append(extra.spec)
    rng.shuffle(specs)
    talk = Talk(tools=specs)
    if rng.random() < 0.07:
        talk.system(rng.choice(_SYSTEMS))
    return talk


def _request(
    tool: Declared,
    rng: Random,
    phrase: tuple[str, str] | None = None,
    given: dict[str, tuple[str, object]] | None = None,
    plain: bool = False,
) -> Request:
    """Words and call; `given` fixes some slots, `plain` leaves out the frame around a phrase."""
    mark, body = phrase or rng.choice(tool.template.phrases)
    filled = dict(given or {})
    for name, parameter in tool.kinds.items():
        if name not in filled and parameter.kind != "bool" and "{" + name + "}" in body:
            filled[name] = _distinct(parameter, filled, rng)
    scope: Scope = {name: written for name, (written, _) in filled.items()}
    marker = {name: f"\x00{name}\x00" for name in scope}
    traced: Scope = dict(marker)
    text = render(body, traced, rng)
    arguments: dict[str, object] = {}
    for name, parameter in tool.kinds.items():
        if name in marker and marker[name] in text:
            arguments[tool.keys[name]] = filled[name][1]
            text = text.replace(marker[name], str(scope[name]))
        elif traced.get(name) not in (None, marker.get(name)):
            implied = str(traced[name])
            arguments[tool.keys[name]] = {"true": True, "false": False}.get(implied, implied)
            scope[name] = implied
    order = list(tool.spec["function"]["parameters"]["properties"])
    arguments = {key: arguments[key] for key in order if key in arguments}
    if (not plain and phrase is None) or (given and mark != ">"):
        frames = {"!": IMPERATIVE, "~": NOUN, ">": ("{X}",)}[mark]
        text = render(rng.choice(frames), {"X": text}, rng)
    elif mark == "~":
        text = rng.choice(("tell me ", "show me ", "give me ", "find ", "I need ")) + text
    if "\n" not in text:
        text = typed(text, rng)
    fields, _ = result_of(tool.template, scope, rng)
    return Request(text, Call(tool.name, arguments, _result_text(fields, rng)), scope, fields)


def _distinct(parameter, filled: dict, rng: Random) -> tuple[str, object]:
    taken = {written for written, _ in filled.values()}
    for _ in range(6):
        value = fill(parameter, rng)
        if value[0] not in taken:
            return value
    return value


def _result_text(fields: Scope, rng: Random) -> str:
    if not fields:
        return rng.choice(('{"status": "ok"}', "ok", "done", '{"success": true}'))
    if len(fields) == 1 and rng.random() < 0.3:
        return str(next(iter(fields.values())))
    if rng.random() < 0.12:
        return ", ".join(f"{key}: {value}" for key, value in fields.items())
    return json.dumps(fields, ensure_ascii=False)


def _answer(tool: Declared, request: Request, rng: Random) -> str:
    """An answer template whose slots are all known."""
    known = {**request.scope, **request.fields}
    fitting = [a for a in tool.template.answers if slots(a) <= set(known)]
    if not fitting:
        return rng.choice(_CLOSERS)
    text = render(rng.choice(fitting), known, rng)
    return text if text[-1] in '.!?"' else text + "."

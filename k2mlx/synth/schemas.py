"""Function calling over the whole tool universe: the model must read the schema, not remember it."""

# ruff: noqa: E501  (a phrase reads best on one line)

import re
from random import Random

from k2mlx.synth.catalogue import Template, templates
from k2mlx.synth.declare import Declared, declare, fill, result_of
from k2mlx.synth.near_misses import NEAR_MISSES, REPLIES
from k2mlx.synth.phrasing import joined, render, typed
from k2mlx.synth.requests import Request, answer, draw_request, result_text, surrounded
from k2mlx.synth.rivals import alike
from k2mlx.synth.talk import Call, Talk

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
_FOLLOW_UPS: tuple[str, ...] = (
    "and {X}?", "what about {X}?", "how about {X}?", "now {X}", "and for {X}?", "same for {X}", "and {X} please",
    "ok, and {X}?", "now the same with {X}", "make it {X}", "no, {X}", "{X} instead", "and then {X}?", "also {X}",
)  # fmt: skip
_JOINTS = (
    " and ",
    ", and ",
    ". also, ",
    ", then ",
    " and also ",
    "; ",
    " and then ",
    ". then ",
    ", plus ",
    ". after that, ",
    " & ",
)
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


def draw_schemas(rng: Random) -> Talk:
    """Any conversation of this kind."""
    chance = rng.random()
    if chance < 0.54:
        return single(rng)
    if chance < 0.70:
        return parallel(rng)
    if chance < 0.80:
        return irrelevant(rng)
    if chance < 0.86:
        return near_miss(rng)
    if chance < 0.92:
        return missing(rng)
    return several_turns(rng)


def single(rng: Random) -> Talk:
    """One request, one call, its result and the answer."""
    tool = declare(rng.choice(templates()), rng)
    talk = _opened([tool], rng)
    request = draw_request(tool, rng)
    talk.user(surrounded(request.text, rng))
    talk.call(request.call)
    talk.answer(answer(tool, request, rng))
    if rng.random() < 0.06:
        talk.user(rng.choice(_THANKS))
        talk.answer(rng.choice(_WELCOMES))
    return talk


def several_turns(rng: Random) -> Talk:
    """Two or three requests: the same one with another value, the same tool, or another tool."""
    tools = _declared(rng, 2)
    talk = _opened(tools, rng)
    tool, request = tools[0], draw_request(tools[0], rng)
    for turn in range(rng.choice((2, 2, 3))):
        if turn:
            again = _again(tool, request, rng) if rng.random() < 0.5 else None
            tool = tool if again else rng.choice(tools)
            request = again or draw_request(tool, rng)
        talk.user(request.text)
        talk.call(request.call)
        talk.answer(answer(tool, request, rng))
    return talk


def _again(tool: Declared, before: Request, rng: Random) -> Request | None:
    """`And in Rome?`: the request before with one value changed; None if no value can vary."""
    free = [
        s
        for s in before.values
        if tool.kinds[s].kind in ("str", "int", "num") and s in before.written
    ]
    if not free:
        return None
    slot = rng.choice(free)
    shown, value = fill(tool.kinds[slot], rng)
    values, written = {**before.values, slot: value}, {**before.written, slot: shown}
    text = typed(rng.choice(_FOLLOW_UPS).replace("{X}", shown), rng)
    return _rebuilt(tool, text, values, written, rng)


def _rebuilt(tool: Declared, text: str, values: dict, written: dict, rng: Random) -> Request:
    fields, _ = result_of(tool.template, {**written, **values}, rng)
    call = Call(tool.name, tool.arguments(values), result_text(fields, rng))
    return Request(text, call, values, written, fields)


def parallel(rng: Random) -> Talk:
    """Two or three calls in one turn: one tool with other values, or different tools."""
    if rng.random() < 0.5:
        return _parallel_listed(rng)
    count = rng.choice((2, 2, 2, 3))
    if rng.random() < 0.4:
        # The same tool asked twice, with all its values different.
        tools = [declare(rng.choice(templates()), rng)] * count
        phrase = rng.choice(tools[0].template.phrases) if rng.random() < 0.5 else None
    else:
        tools = _declared(rng, count)
        phrase = None
    talk = _opened(tools, rng)
    requests = [draw_request(tool, rng, phrase=phrase, framed=False) for tool in tools]
    words = [request.text.rstrip(".?! ") for request in requests]
    joint = rng.choice(_JOINTS)
    text = words[0] + "".join(joint + word[:1].lower() + word[1:] for word in words[1:])
    talk.user(surrounded(typed(text + rng.choice(("", ".", "?")), rng), rng))
    talk.call(*(request.call for request in requests))
    talk.answer(" ".join(answer(t, r, rng) for t, r in zip(tools, requests, strict=True)))
    return talk


def _parallel_listed(rng: Random) -> Talk:
    """The same request for a list of values: `the weather in Oslo and Rome`."""
    while True:
        template = rng.choice(templates())
        kinds = ("str", "enum", "int", "num") if template.domain == "knowledge" else ("str", "enum")
        varied = [p for p in template.parameters if not p.optional and p.kind in kinds]
        # Lists read well only where the value ends the phrase or stands between blanks, and not
        # beside another value: `between {a} and {b}`.
        pairs = [
            (p, phrase)
            for p in varied
            for phrase in template.phrases
            if re.search(
                r"(^|(?<!\band) )\{" + p.names[0] + r"\}(?! and\b)( |$|[?.<\[])", phrase[1]
            )
        ]
        if pairs:
            break
    tool = declare(template, rng)
    parameter, phrase = rng.choice(pairs)
    slot = parameter.names[0]
    drawn = dict(fill(parameter, rng) for _ in range(rng.choice((2, 2, 2, 3))))
    while len(drawn) < 2:
        drawn.update([fill(parameter, rng)])
    listed = joined(list(drawn), rng)
    if len(drawn) == 2 and rng.random() < 0.1:
        listed = f"both {listed}"
    base = draw_request(
        tool, rng, phrase=phrase, given={slot: (listed, next(iter(drawn.values())))}
    )
    talk = _opened([tool], rng)
    talk.user(surrounded(base.text, rng))
    requests = [
        _rebuilt(tool, "", {**base.values, slot: value}, {**base.written, slot: shown}, rng)
        for shown, value in drawn.items()
    ]
    talk.call(*(request.call for request in requests))
    talk.answer(" ".join(answer(tool, request, rng) for request in requests))
    return talk


def near_miss(rng: Random) -> Talk:
    """A remark about what a declared tool is for, which asks for nothing."""
    name = rng.choice(tuple(NEAR_MISSES))
    template = next(t for t in templates() if t.names[0] == name)
    talk = _opened([declare(template, rng)], rng)
    remark = typed(render(rng.choice(NEAR_MISSES[name]), {}, rng), rng)
    # Words around it do not make it a request.
    talk.user(surrounded(remark, rng) if rng.random() < 0.5 else remark)
    talk.answer(rng.choice(REPLIES))
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
    talk.user(draw_request(declare(wanted, rng), rng).text)
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
    whole = draw_request(tool, rng, phrase=phrase, framed=False)
    first, _, second = whole.text.partition("\n")
    talk.user(typed(first, rng))
    talk.answer(render(question, dict(whole.written), rng))
    talk.user(second.strip())
    talk.call(whole.call)
    talk.answer(answer(tool, whole, rng))
    return talk


def _declared(rng: Random, count: int) -> list[Declared]:
    """Tools of different purposes with different names."""
    while True:
        drawn = rng.sample(templates(), count)
        tools = [declare(template, rng) for template in drawn]
        apart = not any(alike(a, b) for a in drawn for b in drawn if a is not b)
        if apart and len({tool.name for tool in tools}) == count:
            return tools


def _opened(
    tools: list[Declared], rng: Random, exclude: Template | None = None, distractors: bool = True
) -> Talk:
    """A talk that declares the tools among distractors, with or without a system message."""
    taken = [tool.template for tool in tools] + ([exclude] if exclude else [])
    names = {tool.name for tool in tools}
    specs = list({tool.name: tool.spec for tool in tools}.values())
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

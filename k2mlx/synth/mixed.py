"""Longer conversations with the three tools: follow-ups, parallel calls, missing tools, chat in between."""

# ruff: noqa: E501  (a phrase reads best on one line)

from random import Random

from k2mlx.synth import arithmetic, clock, units
from k2mlx.synth.chat import converse
from k2mlx.synth.phrasing import Scope, joined, render, sentence, typed
from k2mlx.synth.requests import surrounded
from k2mlx.synth.single_turn import convert, foreign, opened
from k2mlx.synth.talk import Call, Talk
from k2mlx.synth.toolbox import NAMES, Toolbox

_MORE_SUMS: tuple[tuple[str, str], ...] = (
    ("and divided by {n}?", "{r} / {n}"), ("and times {n}?", "{r} * {n}"), ("and plus {n}?", "{r} + {n}"),
    ("and minus {n}?", "{r} - {n}"), ("now divide that by {n}", "{r} / {n}"), ("multiply that by {n}", "{r} * {n}"),
    ("add {n} to that", "{r} + {n}"), ("now add {n}", "{r} + {n}"), ("subtract {n} from that", "{r} - {n}"),
    ("take away {n}", "{r} - {n}"), ("what if you add {n}?", "{r} + {n}"), ("and half of that?", "{r} / 2"),
    ("double that", "{r} * 2"), ("and twice that?", "{r} * 2"), ("and that squared?", "{r} ** 2"),
    ("times {n}", "{r} * {n}"), ("plus {n}", "{r} + {n}"), ("now times {n} please", "{r} * {n}"),
    ("and if I multiply it by {n}?", "{r} * {n}"), ("divide the result by {n}", "{r} / {n}"),
    ("what is {m}% of that?", "{m} / 100 * {r}"), ("and {m} percent of it?", "{m} / 100 * {r}"),
    ("thanks. and minus {n}?", "{r} - {n}"), ("ok, and the result plus {n}?", "{r} + {n}"),
    ("split that between {m} people", "{r} / {m}"), ("and a third of that?", "{r} / 3"),
)  # fmt: skip
_SAME_AGAIN: tuple[str, ...] = (
    "and {X}?", "what about {X}?", "and what is {X}?", "now {X}", "how about {X}?", "and {X} please", "ok, and {X}?",
    "then {X}", "next: {X}", "and then {X}?",
)  # fmt: skip
_MORE_PLACES: tuple[str, ...] = (
    "and in {p}?", "what about {p}?", "and {p}?", "how about {p}?", "and what time is it in {p}?", "now {p}",
    "ok, and in {p}?", "same for {p}", "and over in {p}?", "thanks. and {p}?", "and the time in {p}?",
)  # fmt: skip
_MORE_UNITS: tuple[str, ...] = (
    "and in {b}?", "what about {b}?", "how about {b}?", "and {b}?", "now in {b}", "ok, and in {b} please",
    "and how many {b} is that?", "what is that in {b}?", "in {b} too please",
)  # fmt: skip
_MORE_VALUES: tuple[str, ...] = (
    "and {v}?", "what about {v} {a}?", "and {v} {a}?", "how about {v}?", "and for {v} {a}?", "now {v} {a}", "same for {v}",
)  # fmt: skip
_THANKS: tuple[str, ...] = (
    "thanks", "thank you", "great, thanks!", "perfect", "ok, thank you", "that helps", "cool", "nice, thanks a lot",
    "thank you very much", "super", "wonderful", "got it, thanks", "thx", "alright, thanks", "good to know", "okay bye",
)  # fmt: skip
_WELCOMES: tuple[str, ...] = (
    "You're welcome!", "Happy to help.", "Any time!", "My pleasure.", "Glad I could help.", "You are welcome.",
    "No problem. Is there anything else?", "Gladly. Just ask if you need more.", "Good! Have a nice day.",
)  # fmt: skip
_TWO_PLACES: tuple[str, ...] = (
    "what time is it in {X}?", "what's the time in {X}?", "time in {X}", "tell me the time in {X}",
    "can you tell me the time in {X}?", "what time is it now in {X}?", "I need the time in {X}", "current time in {X}?",
    "compare the time in {X}", "what are the times in {X}?", "look up the time in {X}", "show me the time in {X}",
)  # fmt: skip
_TWO_VALUES: tuple[str, ...] = (
    "convert {X} to {b}", "what are {X} in {b}?", "how much are {X} in {b}?", "{X} to {b}", "{X} in {b} please",
    "can you convert {X} into {b}?", "how many {b} are {X}?", "give me {X} in {b}", "change {X} to {b}",
    "I need {X} in {b}",
)  # fmt: skip
_TWO_GOALS: tuple[str, ...] = (
    "convert {v} {a} to {X}", "what is {v} {a} in {X}?", "{v} {a} in {X}", "how much is {v} {a} in {X}?",
    "give me {v} {a} in {X}",
)  # fmt: skip
_CANNOT: dict[str, tuple[str, ...]] = {
    "calculator": (
        "Sorry, I have no calculator here, and I should not guess.", "I can't work that out without a calculator.",
        "I have no tool for sums here, and my own arithmetic is poor.", "Sorry, I cannot calculate that without a tool.",
    ),
    "clock": (
        "Sorry, I have no clock here.", "I can't look up the time without a clock tool.", "I don't know the time; I have no clock.",
        "I am sorry, I cannot see a clock from here.",
    ),
    "convert_units": (
        "Sorry, I have no tool for converting units here.", "I cannot convert units without a converter.",
        "I have no unit converter, so I would only be guessing.", "I can't do conversions here, sorry.",
    ),
}  # fmt: skip


def mixed(rng: Random) -> Talk:
    """Any conversation of this kind."""
    box = Toolbox(rng)
    chance = rng.random()
    if chance < 0.09:
        return _tool_missing(box)
    talk = opened(box)
    if rng.random() < 0.4:
        converse(
            talk,
            rng.choice((1, 1, 2, 3)),
            rng,
            files=rng.choice(((), ("people",), ("numbers", "remarks"))),
        )
    if chance < 0.36:
        _parallel(talk, box)
    elif chance < 0.46:
        _two_tools(talk, box)
    elif chance < 0.82:
        rng.choice((_sum_and_more, _sum_and_more, _place_and_more, _units_and_more))(talk, box)
    else:
        for _ in range(rng.choice((2, 2, 3))):
            ask_one(talk, box)
            if rng.random() < 0.3:
                converse(talk, 1, rng, files=rng.choice((("numbers", "remarks"), ("everyday",))))
    if rng.random() < 0.35:
        talk.user(typed(rng.choice(_THANKS), rng))
        talk.answer(rng.choice(_WELCOMES))
    elif rng.random() < 0.15:
        converse(talk, 1, rng)
    return talk


def ask_one(talk: Talk, box: Toolbox) -> None:
    """One question for one of the three tools, answered."""
    asked, call, said = _asked(box, box.rng.choice(NAMES))
    talk.user(surrounded(asked, box.rng))
    talk.call(call)
    talk.answer(said)


def _ask(talk: Talk, box: Toolbox, name: str) -> Call:
    """One question for this tool, answered."""
    asked, call, said = _asked(box, name)
    talk.user(asked)
    talk.call(call)
    talk.answer(said)
    return call


def _asked(box: Toolbox, name: str) -> tuple[str, Call, str]:
    """(question, call, answer) for one tool."""
    rng = box.rng
    if name == "calculator":
        total = arithmetic.draw_sum(rng)
        call = box.run("calculator", expression=total.expression)
        return total.question, call, arithmetic.answer(total, call.result, rng)
    if name == "clock":
        place = clock.draw_place(rng)
        question, dated = clock.question(place, rng)
        call = box.run("clock", place=place)
        return question, call, clock.answer(place, call.result, dated, rng)
    kind, start, goal = units.draw_units(rng)
    shown, value = units.draw_value(rng)
    call = convert(box, value, start, goal)
    question = units.question(kind, shown, start, goal, rng)
    return question, call, units.answer(shown, start, goal, call.result, rng)


def _sum_and_more(talk: Talk, box: Toolbox) -> None:
    """A sum, then one or two steps that go on from its result or ask for the next sum."""
    rng = box.rng
    call = _ask(talk, box, "calculator")
    for _ in range(rng.choice((1, 1, 2))):
        if call.result.startswith("Error") or rng.random() < 0.3:
            noun, expression = arithmetic.short_sum(rng)
            asked = render(rng.choice(_SAME_AGAIN), {"X": noun}, rng)
        else:
            question, pattern = rng.choice(_MORE_SUMS)
            scope: Scope = {
                "n": arithmetic.operand(rng, 4)[1],
                "m": rng.randint(2, 60),
                "r": call.result,
            }
            asked, expression = render(question, scope, rng), render(pattern, scope, rng)
        talk.user(typed(asked, rng))
        call = box.run("calculator", expression=expression)
        talk.call(call)
        talk.answer(arithmetic.answer(arithmetic.Sum(asked, expression), call.result, rng))


def _place_and_more(talk: Talk, box: Toolbox) -> None:
    rng = box.rng
    _ask(talk, box, "clock")
    for _ in range(rng.choice((1, 1, 2))):
        place = clock.draw_place(rng)
        talk.user(typed(rng.choice(_MORE_PLACES).replace("{p}", place), rng))
        call = box.run("clock", place=place)
        talk.call(call)
        talk.answer(clock.answer(place, call.result, False, rng))


def _units_and_more(talk: Talk, box: Toolbox) -> None:
    """A conversion, then the same value in another unit or another value in the same units."""
    rng = box.rng
    kind, start, goal = units.draw_units(rng)
    shown, value = units.draw_value(rng)
    asked = units.question(kind, shown, start, goal, rng)
    for step in range(rng.choice((2, 2, 3))):
        if step and rng.random() < 0.5:
            shown, value = units.draw_value(rng)
            asked = render(rng.choice(_MORE_VALUES), {"v": shown, "a": start}, rng)
        elif step:
            goal = units.other_unit(kind, start, goal, rng)
            asked = render(rng.choice(_MORE_UNITS), {"b": goal}, rng)
        talk.user(typed(asked, rng) if step else asked)
        call = convert(box, value, start, goal)
        talk.call(call)
        talk.answer(units.answer(shown, start, goal, call.result, rng))


def _parallel(talk: Talk, box: Toolbox) -> None:
    """Two or three calls of one tool in one turn, and an answer with every result."""
    rng = box.rng
    count = rng.choice((2, 2, 2, 3))
    asked, calls, said = rng.choice((_places, _values, _sums, _sums))(box, count)
    talk.user(asked)
    talk.call(*calls)
    talk.answer(said)


def _places(box: Toolbox, count: int) -> tuple[str, list[Call], str]:
    rng = box.rng
    places = list(dict.fromkeys(clock.draw_place(rng) for _ in range(count)))
    repeated = "in " if rng.random() < 0.4 else ""
    asked = render(rng.choice(_TWO_PLACES), {"X": joined(places, rng, repeated)}, rng)
    calls = [box.run("clock", place=place) for place in places]
    if any(call.result.startswith("Error") for call in calls):
        each = zip(places, calls, strict=True)
        parts = [sentence(clock.answer(place, call.result, False, rng)) for place, call in each]
        return typed(asked, rng), calls, " ".join(parts)
    said = [
        f"{call.result.split()[0]} in {place}" for call, place in zip(calls, places, strict=True)
    ]
    if rng.random() < 0.6:
        return typed(asked, rng), calls, f"It is {joined(said, rng)}."
    return typed(asked, rng), calls, " ".join(f"It is {part}." for part in said)


def _values(box: Toolbox, count: int) -> tuple[str, list[Call], str]:
    rng = box.rng
    _, start, goal = units.draw_units(rng)
    drawn = [units.draw_value(rng) for _ in range(count)]
    if rng.random() < 0.25:
        kind, start, goal = units.draw_units(rng)
        other = units.other_unit(kind, start, goal, rng)
        scope: Scope = {"v": drawn[0][0], "a": start, "X": joined([goal, other], rng)}
        asked = render(rng.choice(_TWO_GOALS), scope, rng)
        calls = [convert(box, drawn[0][1], start, unit) for unit in (goal, other)]
        said = joined([call.result for call in calls], rng)
        return typed(asked, rng), calls, f"{drawn[0][0]} {start} is {said}."
    shown = [f"{text} {start}" for text, _ in drawn]
    asked = render(rng.choice(_TWO_VALUES), {"X": joined(shown, rng), "b": goal}, rng)
    calls = [convert(box, value, start, goal) for _, value in drawn]
    said = [f"{text} is {call.result}" for text, call in zip(shown, calls, strict=True)]
    return typed(asked, rng), calls, joined(said, rng) + "."


def _sums(box: Toolbox, count: int) -> tuple[str, list[Call], str]:
    rng = box.rng
    drawn = [arithmetic.short_sum(rng) for _ in range(count)]
    asked = arithmetic.ask(joined([noun for noun, _ in drawn], rng), rng)
    calls = [box.run("calculator", expression=expression) for _, expression in drawn]
    said = []
    for (_, expression), call in zip(drawn, calls, strict=True):
        failed = call.result.startswith("Error")
        said.append(f"{expression} has no result" if failed else f"{expression} = {call.result}")
    if rng.random() < 0.25 and not any(call.result.startswith("Error") for call in calls):
        return asked, calls, f"The results are {joined([call.result for call in calls], rng)}."
    return asked, calls, joined(said, rng) + "."


def _two_tools(talk: Talk, box: Toolbox) -> None:
    rng = box.rng
    parts = [_asked(box, name) for name in rng.sample(NAMES, 2)]
    joint = rng.choice(
        (" and ", ", and ", ". also, ", ", also ", "; ", ". and ", " plus: ", " and also ")
    )
    first, second = (part[0].rstrip("?.! ") for part in parts)
    end = "?" if rng.random() < 0.6 else ""
    talk.user(
        first + joint + second[:1].lower() + second[1:] + end
        if second[:1].isalpha()
        else f"{first}{joint}{second}{end}"
    )
    talk.call(*(part[1] for part in parts))
    talk.answer(" ".join(sentence(part[2]) for part in parts))


def _tool_missing(box: Toolbox) -> Talk:
    """The tool that the question needs is not declared."""
    rng = box.rng
    name = rng.choice(NAMES)
    others = [other for other in NAMES if other != name]
    specs = box.specs(*rng.sample(others, rng.choice((1, 2, 2))))
    talk = Talk(tools=specs + foreign(rng, rng.choice((0, 0, 1))))
    if rng.random() < 0.15:
        # Without any tool at all the answer is the same.
        talk.tools = []
    talk.user(surrounded(_asked(box, name)[0], rng))
    talk.answer(rng.choice(_CANNOT[name]))
    return talk

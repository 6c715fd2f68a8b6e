"""One question for one of the three tools: question, call, result, answer."""

# ruff: noqa: E501  (a list of names reads best in long lines)

from random import Random

from k2mlx.synth import arithmetic, clock, units
from k2mlx.synth.catalogue import templates
from k2mlx.synth.declare import declare
from k2mlx.synth.phrasing import render, typed
from k2mlx.synth.requests import surrounded
from k2mlx.synth.talk import Call, Talk
from k2mlx.synth.toolbox import Toolbox

# Catalogue tools that could answer a question meant for one of the three.
_RIVALS = {
    "world_clock", "time_difference", "get_sun_times", "days_between", "day_of_week", "add_days", "unit_convert",
    "convert_temperature", "calculate", "run_code", "web_search", "wikipedia", "get_weather", "country_info",
    "convert_currency", "split_bill", "fuel_cost", "get_distance",
}  # fmt: skip
_FAR_DOMAINS = ("home", "talk", "travel")


def calculator(rng: Random) -> Talk:
    box = Toolbox(rng)
    total = arithmetic.draw_sum(rng)
    talk = opened(box, "calculator")
    call = box.run("calculator", expression=total.expression)
    talk.user(surrounded(total.question, rng))
    talk.call(call)
    talk.answer(arithmetic.answer(total, call.result, rng))
    return talk


def clock_talk(rng: Random) -> Talk:
    box = Toolbox(rng)
    talk = opened(box, "clock")
    if rng.random() < 0.03:
        talk.user(typed(render(rng.choice(clock.NO_PLACE_QUESTIONS), {}, rng), rng))
        talk.answer(clock.which_place(rng))
        place = clock.draw_place(rng)
        talk.user(rng.choice((place, f"in {place}", f"I am in {place}", f"{place} please")))
        dated = False
    else:
        place = clock.draw_place(rng)
        asked, dated = clock.question(place, rng)
        talk.user(surrounded(asked, rng))
    call = box.run("clock", place=place)
    talk.call(call)
    talk.answer(clock.answer(place, call.result, dated, rng))
    return talk


def units_talk(rng: Random) -> Talk:
    box = Toolbox(rng)
    talk = opened(box, "convert_units")
    shown, value = units.draw_value(rng)
    if rng.random() < 0.015:
        kind, (start, goal) = "any", units.mismatched(rng)
    else:
        kind, start, goal = units.draw_units(rng)
    talk.user(surrounded(units.question(kind, shown, start, goal, rng), rng))
    call = convert(box, value, start, goal)
    talk.call(call)
    talk.answer(units.answer(shown, start, goal, call.result, rng))
    return talk


def convert(box: Toolbox, value: int | float, start: str, goal: str) -> Call:
    return box.run("convert_units", value=value, from_unit=start, to_unit=goal)


def opened(box: Toolbox, needed: str | None = None) -> Talk:
    """A talk with the three tools in any order; sometimes fewer, sometimes with foreign ones."""
    rng = box.rng
    chance = rng.random()
    if chance < 0.78 or needed is None:
        talk = Talk(tools=box.specs())
    elif chance < 0.84:
        talk = Talk(tools=box.specs(needed))
    else:
        names = {needed, *rng.sample(("calculator", "clock", "convert_units"), 2)}
        talk = Talk(tools=box.specs(*sorted(names)) + foreign(rng, rng.randint(1, 2)))
        rng.shuffle(talk.tools)
    if rng.random() < 0.04:
        talk.system("You are a helpful assistant.")
    return talk


def foreign(rng: Random, count: int) -> list[dict]:
    """Declarations of catalogue tools that answer none of these questions."""
    far = [t for t in templates() if t.domain in _FAR_DOMAINS and t.names[0] not in _RIVALS]
    return [declare(template, rng).spec for template in rng.sample(far, count)]

"""The held-out tool questions: wordings x held-out values, written once to `tool_questions.jsonl`.

`python -m k2mlx.eval.questions` writes the file again; a test checks that it is the committed one
and pins its hash. Answers are what the tools say at `NOW`, a fixed time in the past, so that
neither the day of the run nor a country's later change of its clocks moves them.
"""

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from k2mlx.agent.heldout import is_held_out_call
from k2mlx.agent.places import ABBREVIATIONS, CITIES, REGIONS
from k2mlx.agent.tools import builtin_tools
from k2mlx.eval import wording

PATH = Path(__file__).with_name("tool_questions.jsonl")
SEED = 2026
COUNTS = {"calculator": 120, "clock": 80, "convert_units": 100}
NOW = datetime(2026, 5, 14, 8, 37, tzinfo=UTC)

Case = dict[str, Any]


def make_questions(seed: int = SEED) -> list[Case]:
    """All cases; the same seed gives the same ones.

    A case is {"id", "kind", "messages", "gold": {"name", "arguments"} | None, "answer": [...] |
    None}. A right final answer contains one of the texts in "answer".
    """
    rng = Random(seed)
    makers = {"calculator": _calculator, "clock": _clock, "convert_units": _units}
    cases = []
    for kind, make in makers.items():
        seen: set[str] = set()
        while len(seen) < COUNTS[kind]:
            case = make(rng, len(seen))
            question = case["messages"][-1]["content"]
            if question not in seen:
                seen.add(question)
                cases.append({"id": f"{kind}-{len(seen):03}", "kind": kind, **case})
    for number, text in enumerate(wording.NONE, start=1):
        messages = _messages(text, rng)
        case = {"kind": "none", "messages": messages, "gold": None, "answer": None}
        cases.append({"id": f"none-{number:03}", **case})
    return cases


def write_questions(path: Path = PATH) -> None:
    """Write the cases as JSON lines."""
    lines = (json.dumps(case, ensure_ascii=False) + "\n" for case in make_questions())
    path.write_text("".join(lines), encoding="utf-8")


def read_questions(path: Path = PATH) -> list[Case]:
    """The committed cases."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _case(question: str, name: str, arguments: dict[str, Any], answers: list[str], rng: Random):
    gold = {"name": name, "arguments": arguments}
    return {"messages": _messages(_typed(question, rng), rng), "gold": gold, "answer": answers}


def _messages(question: str, rng: Random) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": question}]
    if rng.random() < 0.15:
        user, assistant = rng.choice(wording.EARLIER)
        earlier = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        messages = earlier + messages
    return messages


def _typed(question: str, rng: Random) -> str:
    """A user's hand: now and then without capital or last mark. Values stay as they are."""
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    if (
        rng.random() < 0.2
        and question.split()[0] not in ("I",)
        and question[:2] not in ("I ", "I'")
    ):
        question = question[:1].lower() + question[1:]
    return question


def _held_out(draw: Callable[[], tuple[Any, str, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    """Draws until the call is held out: (what was drawn, its arguments)."""
    while True:
        drawn, name, arguments = draw()
        if is_held_out_call(name, arguments):
            return drawn, arguments


def _calculator(rng: Random, index: int) -> Case:
    problem = index % 10 == 9
    table = wording.PROBLEMS if problem else wording.COMPUTATIONS
    phrase, expression = table[(index // 10 if problem else index) % len(table)]

    def draw() -> tuple[dict[str, str], str, dict[str, Any]]:
        values = _operands(rng)
        return values, "calculator", {"expression": expression.format(**values)}

    values, arguments = _held_out(draw)
    result = _result("calculator", arguments)
    shown = {name: _grouped(value, rng) for name, value in values.items()}
    question = phrase.format(**shown)
    if not problem:
        frame = wording.CALCULATOR[index % len(wording.CALCULATOR)]
        question = frame.format(x=question)
    return _case(question, "calculator", arguments, [result], rng)


def _operands(rng: Random) -> dict[str, str]:
    """Fresh operands: {a} {b} {c} of 2 to 6 digits, {d} {e} decimals, the rest small."""
    places = {name: rng.choice((1, 2, 2, 3)) for name in "de"}
    whole = {name: rng.choice((2, 3, 3, 4, 4, 5, 6)) for name in "abc"}
    values = {name: str(_integer(rng, digits)) for name, digits in whole.items()}
    for name, digits in places.items():
        values[name] = f"{_integer(rng, rng.choice((1, 2, 3)))}.{_integer(rng, digits)}"
    ranges = {"n": (11, 95), "m": (12, 280), "s": (300, 9800), "k": (3, 9), "p": (2, 95)}
    return values | {name: str(rng.randint(*bounds)) for name, bounds in ranges.items()}


def _integer(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _grouped(value: str, rng: Random) -> str:
    """Some people write 12,345."""
    large = value.isdigit() and len(value) > 4
    return f"{int(value):,}" if large and rng.random() < 0.3 else value


def _clock(rng: Random, index: int) -> Case:
    rounds, turn = divmod(index, 8)
    table = {0: wording.CLOCK_DATE, 1: wording.CLOCK_DAY}.get(turn, wording.CLOCK)
    number = 6 * rounds + turn - 2 if table is wording.CLOCK else rounds
    places = _held_out_places()
    place = places[(index * 7) % len(places)] if index < len(places) else rng.choice(places)
    arguments = {"place": place}
    shown = place.lower() if rng.random() < 0.15 else place
    question = table[number % len(table)].format(p=shown)
    answers = _clock_answers(_result("clock", arguments), table)
    return _case(question, "clock", arguments, answers, rng)


def _held_out_places() -> list[str]:
    written = [names[0] for table in (CITIES, REGIONS, ABBREVIATIONS) for names, _ in table]
    zones = ["Europe/Zurich", "Asia/Dubai", "America/New_York", "America/Chicago", "Europe/Athens"]
    zones += ["Asia/Seoul", "Asia/Manila", "Africa/Cairo", "Australia/Perth", "Asia/Kolkata"]
    derived = ["Auckland", "Helsinki", "Nairobi", "Oslo", "Denver", "Lagos", "Warsaw", "Karachi"]
    derived += [
        "Reykjavik",
        "Lisbon",
        "Santiago",
        "Caracas",
        "Panama",
        "Jakarta",
        "Baghdad",
        "Accra",
    ]
    # A country that changed its clocks lately may be told wrongly by an old system's zone files.
    skipped = {"Paraguay", "Eastern Time"}
    names = {*written, *zones, *derived} - skipped
    return sorted(name for name in names if is_held_out_call("clock", {"place": name}))


def _clock_answers(result: str, table: Iterable[str]) -> list[str]:
    """From "14:05 on Sunday 22 November 2026 in ...": the texts of which a right answer has one."""
    time, _, weekday, day, month, *_ = result.split()
    if table is wording.CLOCK_DAY:
        return [weekday]
    if table is wording.CLOCK_DATE:
        return [f"{day} {month}", f"{month} {day}", f"{day}th of {month}", f"{day}th {month}"]
    hour, minute = map(int, time.split(":"))
    half = "am" if hour < 12 else "pm"
    short = f"{(hour + 11) % 12 + 1}:{minute:02}"
    return [time, f"{short} {half}", f"{short}{half}", f"{short} {half[0]}.m."]


def _units(rng: Random, index: int) -> Case:
    kinds = list(wording.UNIT_SPELLINGS)
    common = ["length", "mass", "temperature", "volume", "length", "speed", "time"]
    kind = kinds[index // 2 % len(kinds)] if index % 3 == 0 else common[index % len(common)]

    def draw() -> tuple[str, str, dict[str, Any]]:
        shown, value = _amount(rng, kind)
        while True:
            start, goal = rng.sample(wording.UNIT_SPELLINGS[kind], 2)
            arguments = {"value": value, "from_unit": start, "to_unit": goal}
            result = _result("convert_units", arguments)
            cold = "kelvin" in (start, goal) and min(value, float(result.split()[0])) < 0
            if not cold and not _pointless(value, result):
                return shown, "convert_units", arguments

    shown, arguments = _held_out(draw)
    special = wording.UNITS_BY_KIND.get(kind, ())
    table = special if special and rng.random() < 0.2 else wording.UNITS
    template = table[index % len(table)]
    question = template.format(v=shown, a=arguments["from_unit"], b=arguments["to_unit"])
    result = _result("convert_units", arguments)
    return _case(question, "convert_units", arguments, [result.split()[0]], rng)


def _amount(rng: Random, kind: str) -> tuple[str, int | float]:
    """(the value as typed, the JSON number)."""
    if rng.random() < 0.3:
        text = f"{_integer(rng, rng.choice((1, 2)))}.{rng.randint(1, 9)}"
        return text, float(text)
    number = _integer(rng, rng.choice((1, 2, 2, 3, 3, 4))) + 1
    if kind == "temperature":
        number = rng.choice((rng.randint(-39, 120), rng.randint(121, 480)))
    return (f"{number:,}" if number > 999 and rng.random() < 0.4 else str(number)), number


def _pointless(value: float, result: str) -> bool:
    """Two names of one unit, or a result so small or large that nobody would ask."""
    number = float(result.split()[0])
    return math.isclose(number, value) or not 0.01 <= abs(number) < 1e9


def _result(name: str, arguments: dict[str, Any]) -> str:
    result = builtin_tools(lambda: NOW)[name].run(arguments)
    assert not result.startswith("Error"), (arguments, result)
    return result


if __name__ == "__main__":
    write_questions()

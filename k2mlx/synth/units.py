"""Questions for the unit converter: names and abbreviations are copied as the user typed them."""

# ruff: noqa: E501  (a phrase reads best on one line)

import re
from random import Random

from k2mlx.synth.arithmetic import number
from k2mlx.synth.phrasing import render, typed

# Per kind: the spellings of each unit, plural words first; "|" separates what is written after a number.
_UNITS: dict[str, tuple[str, ...]] = {
    "length": (
        "km|kilometers|kilometres",
        "m|meters|metres",
        "cm|centimeters|centimetres",
        "mm|millimeters",
        "miles|miles|mi|mile",
        "feet|feet|ft|foot",
        "inches|inches|inch|in",
        "yards|yards|yd",
        "nautical miles",
    ),
    "mass": (
        "kg|kg|kilograms|kilos|kilo",
        "g|grams",
        "mg|milligrams",
        "pounds|pounds|lb|lbs",
        "ounces|oz|ounce",
        "stone",
        "tons",
        "tonnes",
    ),
    "temperature": (
        "celsius|C|Celsius|°C|degrees Celsius|degrees C",
        "fahrenheit|F|Fahrenheit|°F|degrees Fahrenheit|degrees F",
        "kelvin|K|Kelvin",
    ),
    "volume": (
        "liters|litres|L|l|liter",
        "ml|mL|milliliters|millilitres",
        "cups|cup",
        "gallons|gallon|gal",
        "pints|pint",
        "quarts",
        "tablespoons|tbsp",
        "teaspoons|tsp",
        "fluid ounces|fl oz",
        "cubic meters",
    ),
    "time": (
        "hours|hours|h|hour",
        "minutes|minutes|min",
        "seconds|seconds|s|sec",
        "days|days|day",
        "weeks|weeks",
        "years|years",
        "months",
        "milliseconds|ms",
    ),
    "speed": ("km/h|kph|kmh", "mph|miles per hour", "m/s|meters per second", "knots|knots"),
    "area": (
        "square meters|square metres|m2|sq m",
        "square feet|sq ft|ft2",
        "acres|acre",
        "hectares|ha|hectare",
        "square kilometers|km2",
        "square miles",
    ),
    "data": (
        "MB|megabytes",
        "GB|gigabytes",
        "KB|kilobytes",
        "TB|terabytes",
        "bytes",
        "bits",
        "GiB",
        "MiB",
    ),
    "energy": (
        "kWh|kilowatt hours",
        "joules|J",
        "calories|cal",
        "kcal|kilocalories",
        "kJ|kilojoules",
    ),
    "pressure": ("psi", "bar", "kPa", "atm|atmospheres", "pascals"),
    "power": ("watts|W", "kW|kilowatts", "horsepower|hp"),
    "angle": ("degrees", "radians"),
}
_COMMON = (
    ("length",) * 6
    + ("mass",) * 4
    + ("temperature",) * 5
    + ("volume",) * 3
    + ("time",) * 3
    + ("speed",) * 2
)

_QUESTIONS: tuple[str, ...] = (
    "convert {v} {a} to {b}[|.| please| for me]", "convert {v} {a} to {b}", "convert {v} {a} into {b}",
    "[can|could] you convert {v} {a} to {b}[| for me| please]?", "what is {v} {a} in {b}?",
    "what's {v} {a} in {b}?", "whats {v} {a} in {b}", "how many {b} are in {v} {a}?",
    "how many {b} are there in {v} {a}?", "how many {b} is {v} {a}?", "how much is {v} {a} in {b}?",
    "{v} {a} in {b}[|?| please| pls]", "{v} {a} to {b}[|?| please]", "{v}{a} in {b}", "{v}{a} to {b}",
    "{v} {a} is how many {b}?", "{v} {a} equals how many {b}?", "{v} {a} = ? {b}", "change {v} {a} to {b}",
    "change {v} {a} into {b}", "turn {v} {a} into {b}", "express {v} {a} in {b}", "give me {v} {a} in {b}",
    "tell me what {v} {a} is in {b}", "tell me how many {b} {v} {a} is", "please convert {v} {a} to {b}.",
    "I need {v} {a} in {b}", "I need to convert {v} {a} to {b}", "how many {b} do I get from {v} {a}?",
    "do you know how many {b} {v} {a} is?", "what would {v} {a} be in {b}?", "{v} {a} as {b}?",
    "what does {v} {a} come to in {b}?", "how many {b} make {v} {a}?", "how many {b} fit into {v} {a}?",
    "[hi|hey|hello][,|] what is {v} {a} in {b}?", "if something is {v} {a}, what is it in {b}?",
    "I have {v} {a}. how many {b} is that?", "it says {v} {a} here. what is that in {b}?",
    "in {b}, what is {v} {a}?", "how do you write {v} {a} in {b}?", "show {v} {a} in {b}",
    "write {v} {a} as {b}", "what is the equivalent of {v} {a} in {b}?", "{v} {a} into {b}[|?| please]",
    "I want to know what {v} {a} is in {b}",  "work out {v} {a} in {b}",
    "my recipe says {v} {a}. what is that in {b}?", "we only use {b} here. what is {v} {a}?",
    "could you tell me what {v} {a} would be in {b}?", "can you put {v} {a} into {b}?",
    "quick conversion: {v} {a} to {b}", "unit conversion: {v} {a} to {b}", "conversion of {v} {a} to {b}",
    "I am used to {b}. how much is {v} {a}?", "[my friend|my boss|the sign|the label] says {v} {a}. what is that in {b}?",
    "what do {v} {a} make in {b}?", "what do I write for {v} {a} in {b}?", "find {v} {a} in {b}", "get me {v} {a} in {b}", "let me have {v} {a} in {b}",
    "I am looking for {v} {a} in {b}", "what figure in {b} is {v} {a}?", "how would {v} {a} look in {b}?", "what's that in {b}: {v} {a}?",
    "from {a} to {b}: {v}", "{v} from {a} to {b}", "{a} to {b}: {v} {a}", "we have {v} {a}, but I need {b}", "the plan says {v} {a}, but we measure in {b}",
    "my ruler has only {b}. what is {v} {a}?", "I know it is {v} {a}. and in {b}?", "please give {v} {a} in {b}", "please change {v} {a} to {b}",
    "could I get {v} {a} in {b}?", "can I have {v} {a} in {b}?", "how many {b} would {v} {a} be?", "how many {b} will {v} {a} give?",
    "how many {b} does {v} {a} make?", "how many {b} equal {v} {a}?", "is {v} {a} a lot in {b}?", "you know {v} {a}? what is it in {b}?",
    "help me convert {v} {a} to {b}", "help, what is {v} {a} in {b}?", "I must turn {v} {a} into {b}", "translate {v} {a} into {b}",
    "my {relative} asks what {v} {a} is in {b}", "do the conversion of {v} {a} to {b}", "use the converter: {v} {a} to {b}", "make {b} out of {v} {a}",
    "{v} {a}, how many {b}?", "{v} {a} -> {b}", "{v} {a} => {b}", "{v} {a} ({b}?)", "{v} {a} in {b} is what?", "{v} {a} are what in {b}?",
)  # fmt: skip
_BY_KIND: dict[str, tuple[str, ...]] = {
    "length": (
        "how far is {v} {a} in {b}?", "how long is {v} {a} in {b}?", "I ran {v} {a}. how many {b} is that?",
        "my desk is {v} {a} wide. what is that in {b}?", "how tall is {v} {a} in {b}?",
        "the town is {v} {a} away. how far is that in {b}?", "how high is {v} {a} in {b}?",
    ),
    "mass": (
        "how heavy is {v} {a} in {b}?", "I weigh {v} {a}. what is that in {b}?",
        "the parcel weighs {v} {a}. how many {b} is that?", "how much does {v} {a} weigh in {b}?",
    ),
    "temperature": (
        "how hot is {v} {a} in {b}?", "it is {v} {a} today. what is that in {b}?", "is {v} {a} hot? tell me in {b}",
        "what temperature is {v} {a} in {b}?", "the oven is at {v} {a}. what is that in {b}?",
        "how cold is {v} {a} in {b}?",
    ),
    "volume": ("the tank holds {v} {a}. how much is that in {b}?", "I drank {v} {a}. what is that in {b}?"),
    "time": ("how long is {v} {a} in {b}?", "the film lasts {v} {a}. how many {b} is that?"),
    "speed": ("how fast is {v} {a} in {b}?", "I was driving {v} {a}. what is that in {b}?"),
    "area": ("how big is {v} {a} in {b}?", "the garden is {v} {a}. what is that in {b}?"),
    "data": ("the file is {v} {a}. how many {b} is that?", "how big is {v} {a} in {b}?"),
}  # fmt: skip
_ANSWERS: tuple[str, ...] = (
    "{v} {a} is {r}.", "{v} {a} is {r}.", "{v} {a} = {r}.", "That is {r}.", "That makes {r}.",
    "It is {r}.", "{v} {a} equals {r}.", "{r}.", "The answer is {r}.", "It comes to {r}.",
    "{v} {a} comes to {r}.", "You get {r}.", "{v} {a} converts to {r}.",
)  # fmt: skip
_ERRORS: tuple[str, ...] = (
    "Sorry, I cannot convert {a} to {b}: they measure different things.",
    "That does not work, because {a} and {b} are different kinds of units.",
    "The converter cannot turn {a} into {b}.",
)  # fmt: skip


def draw_units(rng: Random) -> tuple[str, str, str]:
    """(kind, unit to convert from, unit to convert to), spelt as somebody may type them."""
    kind = rng.choice(_COMMON if rng.random() < 0.75 else tuple(_UNITS))
    first, second = rng.sample(_UNITS[kind], 2)
    return kind, rng.choice(first.split("|")), rng.choice(second.split("|"))


def mismatched(rng: Random) -> tuple[str, str]:
    """Two units that measure different things."""
    first, second = rng.sample(("length", "mass", "temperature", "volume", "time", "area"), 2)
    return rng.choice(_UNITS[first]).split("|")[0], rng.choice(_UNITS[second]).split("|")[0]


def draw_value(rng: Random) -> tuple[str, int | float]:
    """(the value as typed, the JSON number)."""
    chance = rng.random()
    if chance < 0.62:
        whole = number(rng, rng.choice((2, 2, 3, 4, 5, 6)))
        grouped = whole > 999 and rng.random() < 0.15
        return (f"{whole:,}" if grouped else str(whole)), whole
    if chance < 0.93:
        text = f"{number(rng, 3)}.{rng.randint(1, 9)}"
        if rng.random() < 0.35:
            text = f"{number(rng, 3)}.{rng.randint(0, 9)}{rng.randint(1, 9)}"
        return text, float(text)
    if chance < 0.97:
        text = f"0.{rng.randint(1, 99):02d}".rstrip("0")
        return text, float(text)
    return rng.choice(
        (("a hundred", 100), ("a thousand", 1000), ("two", 2), ("ten", 10), ("half a", 0.5))
    )


def question(kind: str, shown: str, start: str, goal: str, rng: Random) -> str:
    """How somebody asks for `shown` `start` in `goal`."""
    special = _BY_KIND.get(kind, ())
    template = rng.choice(special if special and rng.random() < 0.2 else _QUESTIONS)
    if not shown[-1].isdigit() or not start[0].isalpha() or len(start) > 3:
        # `two km` and `5 miles` are not written together.
        template = template.replace("{v}{a}", "{v} {a}")
    text = render(template, {"v": shown, "a": start, "b": goal}, rng)
    return typed(re.sub(r"(\d) °", r"\1°" if rng.random() < 0.5 else r"\1 °", text), rng)


def answer(shown: str, start: str, goal: str, result: str, rng: Random) -> str:
    """A short answer that restates the converter's text exactly."""
    scope = {"v": shown, "a": start, "b": goal, "r": result}
    return render(rng.choice(_ERRORS if result.startswith("Error") else _ANSWERS), scope, rng)


def other_unit(kind: str, start: str, goal: str, rng: Random) -> str:
    """A unit of the same kind that is neither `start` nor `goal`."""
    rows = [row.split("|") for row in _UNITS[kind]]
    free = [row for row in rows if start not in row and goal not in row]
    return rng.choice(rng.choice(free)) if free else goal

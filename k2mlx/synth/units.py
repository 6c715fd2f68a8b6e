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
    "the recipe says {v} {a} but my scale shows {b}", "the manual says {v} {a}, but my tool reads {b}. what should it show?", "it's given as {v} {a} and I think in {b}", "they told me {v} {a}. I only understand {b}.", "I only know {b}. {v} {a} is what?",
    "{v} {a} means nothing to me. what is it in {b}?", "what's {v} {a} for somebody who uses {b}?", "say {v} {a} in {b}", "say it in {b}: {v} {a}", "put {v} {a} in {b}", "put {v} {a} in terms of {b}", "rewrite {v} {a} in {b}", "restate {v} {a} in {b}",
    "state {v} {a} in {b}", "compute {v} {a} in {b}", "calculate {v} {a} in {b}", "calculate how many {b} {v} {a} is", "figure out {v} {a} in {b}", "figure out how many {b} are in {v} {a}", "switch {v} {a} to {b}", "switch {v} {a} from {a} to {b}",
    "go from {v} {a} to {b}", "take {v} {a} and convert to {b}", "take {v} {a} and give it to me in {b}", "transform {v} {a} into {b}", "make {v} {a} into {b}", "swap {v} {a} for {b}", "exchange {v} {a} for {b}", "recalculate {v} {a} as {b}",
    "{v} {a} = how many {b}?", "{v} {a} = {b}?", "{v} {a} = ___ {b}", "{v} {a} = x {b}, x?", "{v} {a} >> {b}", "{v}{a} -> {b}", "{v}{a} => {b}", "{v}{a} = ? {b}", "{v}{a} as {b}", "{v} {a}, {b}?", "{v} {a}; {b} please", "{v} {a}: {b}?", "{v} {a} | {b}",
    "{a} -> {b}: {v}", "{a}->{b} {v}", "{a} to {b}, value {v}", "{b} from {v} {a}", "{b} for {v} {a}?", "{b} in {v} {a}", "{b}: {v} {a}", "number of {b} in {v} {a}", "amount of {b} in {v} {a}?", "value in {b} of {v} {a}", "value of {v} {a} in {b}", "conversion {v} {a} {b}", "convert: {v} {a}, {b}",
    "convert {v} from {a} to {b}", "convert from {a} to {b}: {v}", "convert to {b}: {v} {a}", "convert into {b} the value {v} {a}", "convert the value {v} from {a} into {b}", "to {b}, {v} {a} please", "into {b}: {v} {a}", "in {b} please: {v} {a}", "from {v} {a} to {b}?", "I've got {v} {a}; in {b}?",
    "I have {v} {a} and need {b}", "I have a value of {v} {a}, which I want in {b}", "I measured {v} {a}. what's that in {b}?", "I wrote down {v} {a}, but the form wants {b}", "the form asks for {b} and I have {v} {a}", "the app shows {v} {a}. I'd rather see {b}.",
    "my notes say {v} {a}. what would it be in {b}?", "the box says {v} {a}. how many {b} would that be?", "the label reads {v} {a}; how many {b}?", "the instructions call for {v} {a}. in {b} that's what?", "the book says {v} {a}, which is how many {b}?",
    "the ad says {v} {a}. how much in {b}?", "someone wrote {v} {a}. I'd like {b}.", "my {relative} says it's {v} {a}. how many {b} does that make?", "my {relative} only knows {b}. how do I tell them {v} {a}?", "{person} told me {v} {a}. what do I enter if it has to be {b}?",
    "{person} needs {v} {a} in {b}", "the teacher wants {v} {a} in {b}", "our supplier uses {a}, we use {b}. what is {v} {a}?", "the old one was in {a}. {v} {a} is how many {b}?", "would {v} {a} be many {b}? how many?", "roughly how many {b} is {v} {a}?", "exactly how many {b} is {v} {a}?",
    "how many {b} would you count in {v} {a}?", "how many {b} is that: {v} {a}?", "how many {b} correspond to {v} {a}?", "how many {b} add up to {v} {a}?", "how many {b} do {v} {a} have?", "how many {b} can I get out of {v} {a}?", "how many {b} to {v} {a}?", "how many {b} go into {v} {a}?", "how many {b} per {v} {a}?",
    "what number of {b} is {v} {a}?", "what number of {b} equals {v} {a}?", "what is {v} {a} expressed in {b}?", "what is {v} {a} converted to {b}?", "what is {v} {a} when converted to {b}?", "what does {v} {a} equal in {b}?", "what does {v} {a} mean in {b}?", "what are {v} {a} in {b}?", "what is that in {b}? I mean {v} {a}",
    "what do you get if you convert {v} {a} to {b}?", "what do I get for {v} {a} in {b}?", "what would {v} {a} read in {b}?", "what would you call {v} {a} in {b}?", "{v} {a} would be what in {b}?", "{v} {a} comes to how many {b}?", "{v} {a} makes how many {b}?", "{v} {a} corresponds to how many {b}?", "{v} {a} is the same as how many {b}?",
    "is there a quick way to get {v} {a} in {b}?", "can you express {v} {a} in {b}?", "can you do {v} {a} to {b}?", "can you tell me how many {b} are in {v} {a}?", "could you work out {v} {a} in {b}?", "would you convert {v} {a} to {b}?", "will you turn {v} {a} into {b}?", "may I have {v} {a} in {b}?", "any idea what {v} {a} is in {b}?",
    "I'd like {v} {a} in {b}", "I'd like to see {v} {a} in {b}", "I want {v} {a} in {b}", "I want {v} {a} converted to {b}", "I need the {b} value for {v} {a}", "we need {v} {a} as {b}", "let's turn {v} {a} into {b}", "let me know how many {b} {v} {a} is", "remind me how many {b} are in {v} {a}", "see how many {b} {v} {a} makes",
    "swapping units: {v} {a} to {b}", "units: {v} {a} to {b}", "metric or not, I need {v} {a} in {b}", "unit change, {v} {a} to {b}", "convert for me: {v} {a} in {b}",
)  # fmt: skip
_BY_KIND: dict[str, tuple[str, ...]] = {
    "length": (
        "how far is {v} {a} in {b}?", "how long is {v} {a} in {b}?", "I ran {v} {a}. how many {b} is that?",
        "my desk is {v} {a} wide. what is that in {b}?", "how tall is {v} {a} in {b}?",
        "the town is {v} {a} away. how far is that in {b}?", "how high is {v} {a} in {b}?",
        "the sofa is {v} {a} long. will you tell me that in {b}?", "the trail is {v} {a}. how many {b} do we walk?", "my {relative} is {v} {a} tall. what is that in {b}?",
        "the shelf is {v} {a} deep, but I measure in {b}", "snow is {v} {a} deep. how deep is that in {b}?", "it is {v} {a} to the next gas station. and in {b}?",
        "I cycled {v} {a} today, how far in {b}?", "the fabric is {v} {a}. how many {b} of fabric is that?", "how wide is {v} {a} in {b}?",
        "how deep is {v} {a} in {b}?", "the screen measures {v} {a}. in {b}?", "the map says {v} {a}. how many {b} is the way?",
        "she jumped {v} {a}. in {b}, please", "the plane flies at {v} {a}. how high is that in {b}?",
    ),
    "mass": (
        "how heavy is {v} {a} in {b}?", "I weigh {v} {a}. what is that in {b}?",
        "the parcel weighs {v} {a}. how many {b} is that?", "how much does {v} {a} weigh in {b}?",
        "my scale only shows {b}. what is {v} {a}?", "the baby weighs {v} {a}. what is that in {b}?", "my suitcase is {v} {a}. the airline wants {b}",
        "the recipe wants {v} {a} of flour. how many {b} do I weigh?", "I lost {v} {a}. how many {b} is that?", "I bought {v} {a} of apples. in {b}?",
        "the dog is {v} {a}. how heavy in {b}?", "how many {b} does {v} {a} of sugar weigh?", "the truck carries {v} {a}. what is the load in {b}?",
        "add {v} {a} of butter, it says. how many {b}?", "the limit is {v} {a}. what is it in {b}?",
    ),
    "temperature": (
        "how hot is {v} {a} in {b}?", "it is {v} {a} today. what is that in {b}?", "is {v} {a} hot? tell me in {b}",
        "what temperature is {v} {a} in {b}?", "the oven is at {v} {a}. what is that in {b}?",
        "how cold is {v} {a} in {b}?",
        "the forecast says {v} {a}. how warm is that in {b}?", "bake at {v} {a}, it says. my oven has {b}", "set the oven to {v} {a}: what is that in {b}?",
        "I have a fever of {v} {a}. what is it in {b}?", "the pool is {v} {a}. in {b}?", "the thermometer reads {v} {a}. what would a {b} one read?",
        "it was {v} {a} in the shade. convert that to {b}", "is it warm at {v} {a}? I know only {b}", "how warm is {v} {a} in {b}?",
        "water at {v} {a} is how much in {b}?", "the freezer is at {v} {a}. say that in {b}", "which {b} temperature is {v} {a}?",
    ),
    "volume": (
        "the tank holds {v} {a}. how much is that in {b}?", "I drank {v} {a}. what is that in {b}?",
        "I need {v} {a} of milk but my jug shows {b}", "the recipe says {v} {a} of water. how many {b} do I pour?", "the bottle holds {v} {a}. what is that in {b}?",
        "how many {b} of petrol is {v} {a}?", "fill in {v} {a} of oil. how many {b} is it?", "the aquarium takes {v} {a}. how many {b} is that?",
        "the engine has {v} {a} of oil. in {b}?", "drink {v} {a} a day, they say. how many {b}?", "how many {b} of soup is {v} {a}?",
    ),
    "time": (
        "how long is {v} {a} in {b}?", "the film lasts {v} {a}. how many {b} is that?",
        "the flight takes {v} {a}. how many {b} is that?", "I waited {v} {a}. how long is that in {b}?", "the warranty runs {v} {a}. how many {b} is that?",
        "the battery lasts {v} {a}. and in {b}?", "bake it for {v} {a}. that is how many {b}?", "I have been here for {v} {a}. how many {b} have I been here?",
        "the song is {v} {a} long. in {b}?", "how many {b} pass in {v} {a}?", "they gave me {v} {a}. how many {b} do I have?",
        "the trip is {v} {a}, so how many {b}?",
    ),
    "speed": (
        "how fast is {v} {a} in {b}?", "I was driving {v} {a}. what is that in {b}?",
        "the limit is {v} {a}. what does my {b} dial show?", "the wind blows at {v} {a}. how fast is that in {b}?", "the train does {v} {a}. what is it in {b}?",
        "he runs {v} {a}. how many {b} is that?", "the sign says {v} {a}, my car shows {b}", "the boat makes {v} {a}. and in {b}?",
        "the ball flew at {v} {a}. how fast in {b}?",
    ),
    "area": (
        "how big is {v} {a} in {b}?", "the garden is {v} {a}. what is that in {b}?",
        "the flat has {v} {a}. how large is that in {b}?", "the farm is {v} {a}. how many {b} is that?", "how much land is {v} {a} in {b}?",
        "the carpet covers {v} {a}. what is that in {b}?", "the lake is {v} {a}. in {b}?", "paint for {v} {a}: how many {b} is that?",
        "the park measures {v} {a}, in {b} please",
    ),
    "data": (
        "the file is {v} {a}. how many {b} is that?", "how big is {v} {a} in {b}?",
        "the download is {v} {a}. how large is it in {b}?", "my plan has {v} {a}. how many {b} can I use?", "the disk has {v} {a} left. in {b}?",
        "the video takes {v} {a}. what is that in {b}?", "the backup needs {v} {a}, the disk is sold in {b}", "how many {b} of memory is {v} {a}?",
    ),
    "energy": (
        "we used {v} {a} last month. what is that in {b}?", "the snack has {v} {a}. how many {b} is that?", "how much energy is {v} {a} in {b}?",
        "I burned {v} {a} at the gym. in {b}?", "the battery stores {v} {a}. how many {b} is that?",
    ),
    "pressure": (
        "my tyres need {v} {a}, but the pump shows {b}", "the pressure is {v} {a}. what is it in {b}?", "how much pressure is {v} {a} in {b}?",
        "the boiler is at {v} {a}. in {b}?",
    ),
    "power": (
        "the engine has {v} {a}. how much is that in {b}?", "the heater draws {v} {a}. in {b}?", "how strong is {v} {a} in {b}?",
        "the motor is rated at {v} {a}. how many {b} is it?",
    ),
    "angle": (
        "turn it by {v} {a}. how many {b} is that?", "the angle is {v} {a}. what is it in {b}?", "how many {b} is an angle of {v} {a}?",
        "the slope is {v} {a}. in {b}?",
    ),
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
    template = rng.choice(special if special and rng.random() < 0.3 else _QUESTIONS)
    if not shown[-1].isdigit() or not start[0].isalpha() or len(start) > 3:
        # `two km` and `5 miles` are not written together.
        template = template.replace("{v}{a}", "{v} {a}")
    text = render(template, {"v": shown, "a": start, "b": goal}, rng)
    text = re.sub(r"(\d) °", r"\1°" if rng.random() < 0.5 else r"\1 °", text)
    # A unit that opens the line keeps its case, because the call copies it.
    return text if template.startswith(("{a}", "{b}")) else typed(text, rng)


def answer(shown: str, start: str, goal: str, result: str, rng: Random) -> str:
    """A short answer that restates the converter's text exactly."""
    scope = {"v": shown, "a": start, "b": goal, "r": result}
    return render(rng.choice(_ERRORS if result.startswith("Error") else _ANSWERS), scope, rng)


def other_unit(kind: str, start: str, goal: str, rng: Random) -> str:
    """A unit of the same kind that is neither `start` nor `goal`."""
    rows = [row.split("|") for row in _UNITS[kind]]
    free = [row for row in rows if start not in row and goal not in row]
    return rng.choice(rng.choice(free)) if free else goal

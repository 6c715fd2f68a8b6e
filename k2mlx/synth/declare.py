"""One tool of the catalogue as a conversation sees it: renamed, described and typed in a way of its own."""

# ruff: noqa: E501  (a list of names reads best in long lines)

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from k2mlx.synth.catalogue import Parameter, Template
from k2mlx.synth.phrasing import Scope, render
from k2mlx.synth.wild import wild_identifier, wild_like, wild_word
from k2mlx.synth.words import draw

# How often a tool gets a meaningless name, so that only its description tells what it does.
INVENTED = 0.2
# How often a value is one that no list holds, so that it can only be copied.
WILD = 0.35
# Fields of results that may have decimals; the others are counts.
_MEASURED = set(
    "temperature high low price total balance value result rate cost amount area volume mean median sd "
    "each monthly distance_km bmi average lat lon c percent tax change_percent max".split()
)
_JSON_TYPES = {
    "str": "string", "enum": "string", "int": "integer", "num": "number", "num_m": "number",
    "bool": "boolean", "enum_int": "integer", "strs": "array", "ints": "array", "nums": "array",
}  # fmt: skip

_FRAMES = ("{d}",) * 10 + ("{d}.",) * 10 + (
    "Function to use for: {d}", "{d}. Returns JSON.", "{d}. Returns text.", "Tool: {d}", "{d} (needs internet)",
    "{d}. Use it only when asked.", "{d} for the user.", "This function does this: {d}.", "{d} by name or value.",
)  # fmt: skip


@dataclass
class Declared:
    """A tool as declared.

    `spec` is what the model sees; `paths` says where a slot's value stands in the arguments (two
    names when it is inside an object), `forms` how it is written there: "same", "text" (a number as
    a string), "upper" or "title" (enum values).
    """

    template: Template
    name: str
    spec: dict
    paths: dict[str, tuple[str, ...]]
    forms: dict[str, str]
    kinds: dict[str, Parameter]

    def arguments(self, values: Mapping[str, object]) -> dict[str, object]:
        """The call's arguments for some slots, in the order of the declaration."""
        found: dict[str, object] = {}
        for slot, path in self.paths.items():
            if slot not in values:
                continue
            place = found
            for key in path[:-1]:
                inner = place.setdefault(key, {})
                assert isinstance(inner, dict)
                place = inner
            place[path[-1]] = formed(values[slot], self.forms[slot])
        return found


def declare(tool: Template, rng: Random) -> Declared:
    """Draws names, wording and schema details of a tool."""
    invented = rng.random() < INVENTED
    style = rng.choices(("snake", "camel", "pascal", "kebab", "dotted"), (76, 14, 3, 2, 5))[0]
    name = styled(
        wild_identifier(rng) if invented else rng.choice(tool.names), style, rng, tool.domain
    )
    described = invented or rng.random() < 0.75
    parameters = list(tool.parameters)
    if rng.random() < 0.15:
        rng.shuffle(parameters)
    grouped = _group(parameters, rng)
    properties: dict[str, dict] = {}
    required: list[str] = []
    paths: dict[str, tuple[str, ...]] = {}
    forms = {parameter.names[0]: _form(parameter, rng) for parameter in parameters}
    used = {grouped[0]} if grouped else set()
    for parameter in parameters:
        slot = parameter.names[0]
        key = _key(parameter, invented, used, style, rng)
        used.add(key)
        schema = _schema(parameter, forms[slot], described, rng)
        if grouped and slot in grouped[1]:
            paths[slot] = (grouped[0], key)
            group = properties.setdefault(grouped[0], {"type": "object", "properties": {}})
            group["properties"][key] = schema
            if not parameter.optional:
                group.setdefault("required", []).append(key)
                required += [grouped[0]] if grouped[0] not in required else []
            continue
        paths[slot] = (key,)
        properties[key] = schema
        if not parameter.optional:
            required.append(key)
    schema = {"type": "object", "properties": properties}
    if required or rng.random() < 0.5:
        schema["required"] = required
    description = rng.choice(_FRAMES).replace("{d}", rng.choice(tool.descriptions))
    function = {"name": name, "description": description, "parameters": schema}
    kinds = {parameter.names[0]: parameter for parameter in tool.parameters}
    return Declared(tool, name, {"type": "function", "function": function}, paths, forms, kinds)


def formed(value: object, form: str) -> object:
    """A value the way its declaration wants it."""
    if form == "text":
        return str(value)
    if form == "upper":
        return str(value).upper()
    if form == "title":
        return str(value).capitalize()
    return value


def _group(parameters: list[Parameter], rng: Random) -> tuple[str, set[str]] | None:
    """Rarely some parameters stand inside an object: (its name, their slots)."""
    if len(parameters) < 3 or rng.random() > 0.06:
        return None
    inside = rng.sample(parameters, rng.randint(2, len(parameters) - 1))
    name = rng.choice(("options", "details", "settings", "request", "params", "info", "data"))
    return name, {parameter.names[0] for parameter in inside}


def _form(parameter: Parameter, rng: Random) -> str:
    if parameter.kind == "enum" and parameter.values.islower() and rng.random() < 0.2:
        return rng.choice(("upper", "title"))
    if parameter.kind in ("int", "enum_int") and rng.random() < 0.07:
        return "text"
    if parameter.kind == "int" and rng.random() < 0.12:
        return "number"
    return "same"


def styled(name: str, style: str, rng: Random, domain: str = "") -> str:
    """A snake_case name in another style."""
    words = name.split("_")
    if style == "camel":
        return words[0] + "".join(word.capitalize() for word in words[1:])
    if style == "pascal":
        return "".join(word.capitalize() for word in words)
    if style == "kebab":
        return "-".join(words)
    if style == "dotted":
        return f"{rng.choice((domain, words[-1], 'api', 'tools'))}.{name}"
    return name


def fill(parameter: Parameter, rng: Random) -> tuple[str, object]:
    """(as the user writes it, the JSON value)."""
    kind, values = parameter.kind, parameter.values
    if kind == "str":
        text = str(render("{x:" + values + "}", {}, rng))
        text = wild_like(text, rng) if rng.random() < WILD else text
        return text, text
    if kind == "enum":
        value = rng.choice(values.split(","))
        return value.replace("_", " "), value
    if kind == "enum_int":
        value = rng.choice(values.split(","))
        return value, int(value)
    if kind in ("int", "num", "num_m"):
        number = _number(kind, values, rng)
        return str(number), number
    assert kind in ("strs", "ints", "nums"), (
        f"{parameter.names}: a {kind} is never written in a phrase"
    )
    count = rng.choice((2, 2, 3, 3, 4) if kind == "strs" else (3, 3, 4, 5, 6))
    if kind == "strs":
        drawn = [draw_text(values, rng) for _ in range(count)]
        if rng.random() < WILD:
            drawn = [wild_like(text, rng) for text in drawn]
        items: list[object] = list(dict.fromkeys(drawn))
    else:
        items = [_number("int" if kind == "ints" else "num", values, rng) for _ in range(count)]
    written = [str(item) for item in items]
    if len(written) == 1:
        return written[0], items
    joint = rng.choice((" and ", " and ", ", and "))
    return ", ".join(written[:-1]) + joint + written[-1], items


def draw_text(kind: str, rng: Random) -> str:
    """A value of a word list, with its own slots filled in."""
    return render(draw(kind, rng), {}, rng)


def result_of(tool: Template, slots: Scope, rng: Random) -> tuple[Scope, bool]:
    """(the fields of the tool's result, whether there are any)."""
    fields: Scope = {}
    for key, kind in tool.result:
        if kind.startswith("'"):
            fields[key] = {"true": True}.get(kind[1:], kind[1:])
        elif kind.startswith("$"):
            if kind[1:] in slots:
                fields[key] = slots[kind[1:]]
        elif ".." in kind:
            low, high = (int(part) for part in kind.split(".."))
            decimal = key in _MEASURED and rng.random() < 0.4
            fields[key] = (
                round(rng.uniform(low, high), rng.choice((1, 2)))
                if decimal
                else rng.randint(low, high)
            )
        else:
            fields[key] = draw_text(kind, rng)
    return fields, bool(fields)


def _number(kind: str, values: str, rng: Random) -> int | float:
    low, high = (float(part) for part in values.split(".."))
    if kind == "int":
        return rng.randint(int(low), int(high))
    if kind == "num" and rng.random() < 0.6 and low == int(low):
        return rng.randint(int(low), int(high))
    value = round(rng.uniform(low, high), rng.choice((1, 1, 2)))
    return int(value) if value == int(value) else value


def _key(parameter: Parameter, invented: bool, used: set[str], style: str, rng: Random) -> str:
    for _ in range(9):
        if invented and rng.random() < 0.7:
            key = wild_word(rng)
        else:
            key = rng.choice(parameter.names) if rng.random() < 0.7 else parameter.names[0]
            key = styled(key, "camel", rng) if style in ("camel", "pascal") else key
        if key not in used:
            return key
    return parameter.names[0] + "_" + str(len(used))


def _schema(parameter: Parameter, form: str, described: bool, rng: Random) -> dict:
    schema: dict = {"type": _JSON_TYPES[parameter.kind]}
    if form in ("text", "number"):
        schema["type"] = "string" if form == "text" else "number"
    if schema["type"] == "number" and rng.random() < 0.06:
        schema["type"] = "float"
    if parameter.kind in ("strs", "ints", "nums"):
        item = {"strs": "string", "ints": "integer", "nums": "number"}[parameter.kind]
        schema["items"] = {"type": item}
    if parameter.kind.startswith("enum"):
        options: list = parameter.values.split(",")
        if parameter.kind == "enum_int":
            options = [int(option) for option in options]
        schema["enum"] = [formed(option, form) for option in options]
    if parameter.descriptions and (described or rng.random() < 0.2):
        schema["description"] = _described(parameter, rng)
    if parameter.optional and rng.random() < 0.15 and "enum" in schema:
        schema["default"] = schema["enum"][0]
    return schema


def _described(parameter: Parameter, rng: Random) -> str:
    text = rng.choice(parameter.descriptions)
    chance = rng.random()
    if chance < 0.16 and parameter.kind in ("str", "int", "num"):
        return f"{text}{rng.choice((', e.g. ', ', for example ', ' such as '))}{fill(parameter, rng)[0]}"
    if chance < 0.22 and parameter.optional:
        return f"{text} (optional)"
    return text + "." if chance < 0.4 else text

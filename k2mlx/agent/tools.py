"""What a tool is, and the three that come with k2mlx: calculator, clock and convert_units.

A tool takes checked arguments and gives text. Whatever goes wrong with a call (unknown tool, broken
JSON, a wrong argument, a city nobody knows) is an answer for the model to read, `Error: ...`, and
never an exception.

The descriptions and parameters below are part of k2-nano's training data and of its evaluation:
changing a word changes what the model sees.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from k2mlx.agent.calculator import calculate
from k2mlx.agent.clock import tell_time
from k2mlx.agent.units import convert


@dataclass(frozen=True)
class Tool:
    """A function a model may call.

    `spec` is the OpenAI form {"type": "function", "function": {...}}; `call` gets the arguments
    after they were checked against it and returns the result as text. `call` may raise ValueError
    with a message for the model; anything else that it raises is reported to the model by its
    class.
    """

    name: str
    spec: dict[str, Any]
    call: Callable[[dict[str, Any]], str]

    def run(self, arguments: Any) -> str:
        """Check the arguments and call; problems come back as "Error: ..." text."""
        problem = check_arguments(self.spec["function"].get("parameters", {}), arguments)
        if problem:
            return f"Error: {problem}"
        try:
            return self.call(arguments)
        except ValueError as error:
            return f"Error: {error}"
        except Exception as error:  # a tool must never end the conversation
            return f"Error: {self.name} failed: {type(error).__name__}: {error}"


def run_call(tools: Mapping[str, Tool], name: str, arguments_json: str) -> str:
    """Run the call that a model wrote; never raises, errors are returned as "Error: ..." text."""
    tool = tools.get(name)
    if tool is None:
        known = ", ".join(tools) or "none"
        return f"Error: unknown tool {name!r}; the tools are: {known}"
    try:
        arguments = json.loads(arguments_json)
    except (ValueError, RecursionError) as error:
        return f"Error: the arguments are not valid JSON ({error})"
    return tool.run(arguments)


_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a string", lambda value: isinstance(value, str)),
    "number": (
        "a number",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    ),
    "integer": ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "array": ("an array", lambda value: isinstance(value, list)),
    "object": ("an object", lambda value: isinstance(value, dict)),
    "null": ("null", lambda value: value is None),
}


def check_arguments(parameters: Mapping[str, Any], arguments: Any) -> str | None:
    """What is wrong with `arguments` under the schema's types, required and enum, or None."""
    if not isinstance(arguments, dict):
        return f"the arguments must be a JSON object, got {_shown(arguments)}"
    properties = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"the argument {name!r} is missing"
    for name, value in arguments.items():
        if name not in properties:
            if parameters.get("additionalProperties"):
                continue
            known = ", ".join(properties) or "none"
            return f"unknown argument {name!r}; the arguments are: {known}"
        problem = _check_value(properties[name], value)
        if problem:
            return f"the argument {name!r} must be {problem}, got {_shown(value)}"
    return None


def _check_value(schema: Mapping[str, Any], value: Any) -> str | None:
    """What the value should have been, or None if it is right."""
    if "enum" in schema and value not in schema["enum"]:
        return "one of " + ", ".join(map(_shown, schema["enum"]))
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    known = [_TYPES[kind] for kind in kinds if kind in _TYPES]
    if known and not any(fits(value) for _, fits in known):
        return " or ".join(words for words, _ in known)
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def function_spec(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI tool declaration in which every property is required."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
            },
        },
    }


CALCULATOR_SPEC = function_spec(
    "calculator",
    "Evaluate an arithmetic expression and return the number.",
    {
        "expression": {
            "type": "string",
            "description": "Arithmetic with + - * / % ** and parentheses, such as 12 * (3 + 4)",
        }
    },
)
CLOCK_SPEC = function_spec(
    "clock",
    "Tell the current date and time in a city or time zone.",
    {
        "place": {
            "type": "string",
            "description": "City, country or time zone, such as Tokyo or UTC",
        }
    },
)
CONVERT_UNITS_SPEC = function_spec(
    "convert_units",
    "Convert a value from one unit to another.",
    {
        "value": {"type": "number", "description": "The number to convert"},
        "from_unit": {"type": "string", "description": "Unit to convert from, such as miles"},
        "to_unit": {"type": "string", "description": "Unit to convert to, such as km"},
    },
)


def builtin_tools(now: Callable[[], datetime] | None = None) -> dict[str, Tool]:
    """The three tools by name; the clock tells `now()`, by default this machine's time."""
    read = now or (lambda: datetime.now(UTC))
    tools = [
        Tool("calculator", CALCULATOR_SPEC, lambda a: calculate(a["expression"])),
        Tool("clock", CLOCK_SPEC, lambda a: tell_time(a["place"], read())),
        Tool("convert_units", CONVERT_UNITS_SPEC, lambda a: convert(**a)),
    ]
    return {tool.name: tool for tool in tools}


BUILTIN = builtin_tools()

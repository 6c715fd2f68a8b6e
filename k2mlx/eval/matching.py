"""Whether a model's calls are the wanted ones: BFCL's AST check, written anew.

A wanted call gives each argument a list of accepted values; `""` among them means that the argument
may be left out. Values match by type and value:

- strings after removing spaces and , . / - _ * ^, in lower case, with ' as "
- true and false only each other; an integer where a number is wanted matches an equal float, a
  float an integer only where the tool's schema says number
- lists item by item, in order; objects key by key, each key with its own list of accepted values
  (or plain values, which then must be equal)

An argument that is neither in the wanted call nor optional is wrong, as is one that the tool's
schema does not have, and a required one that is missing. Calls of one turn match in any order
unless `order` is set.
Source: the Berkeley Function Calling Leaderboard's description of its AST evaluation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_DROPPED = re.compile(r"[ ,./\-_*^]")
_FLOAT_TYPES = ("number", "float")

Call = Mapping[str, Any]


def match_calls(
    made: Sequence[Call],
    gold: Sequence[Call],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    order: bool = False,
) -> str | None:
    """Why the calls are not the wanted ones, or None if they are.

    made: [{"name", "arguments": {arg: value}}]; gold: [{"name", "arguments": {arg: [accepted]}}];
    tools: OpenAI specs, for required arguments and types. No gold means that no call is right.
    """
    if len(made) != len(gold):
        return f"made {len(made)} calls, wanted {len(gold)}"
    schemas = {name: schema for name, schema in map(tool_schema, tools) if name}
    problems = [[match_call(call, wanted, schemas) for wanted in gold] for call in made]
    if order:
        return next((row[i] for i, row in enumerate(problems) if row[i]), None)
    if _assignable(problems):
        return None
    unmatched = next((row for row in problems if all(row)), problems[0])
    return min((problem for problem in unmatched if problem), key=_misses_name, default="no match")


def match_call(
    made: Call, wanted: Call, schemas: Mapping[str, Mapping[str, Any]] | None = None
) -> str | None:
    """Why one call is not the wanted one, or None if it is."""
    if made["name"] != wanted["name"]:
        return f"called {made['name']!r}, wanted {wanted['name']!r}"
    arguments = made["arguments"]
    if not isinstance(arguments, Mapping):
        return f"the arguments are {_shown(arguments)}, wanted an object"
    schema = (schemas or {}).get(wanted["name"])
    properties = (schema or {}).get("properties") or {}
    for name in (schema or {}).get("required") or ():
        if name not in arguments:
            return f"required argument {name!r} is missing"
    for name, value in arguments.items():
        if name not in wanted["arguments"] or (properties and name not in properties):
            return f"unexpected argument {name!r}"
        accepted = wanted["arguments"][name]
        if not matches_any(value, accepted, properties.get(name) or {}):
            return f"argument {name!r} is {_shown(value)}, accepted are {_shown(accepted)}"
    for name, accepted in wanted["arguments"].items():
        if name not in arguments and "" not in accepted:
            return f"argument {name!r} is missing"
    return None


def matches_any(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Whether the value is one of the accepted ones under the argument's JSON schema."""
    return any(_equal(value, one, schema) for one in accepted)


def standardize(text: str) -> str:
    """The form in which strings are compared."""
    return _DROPPED.sub("", text).lower().replace("'", '"')


def tool_schema(tool: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """(name, parameters) of a tool in OpenAI's form, or of the bare function within it."""
    function = tool.get("function", tool)
    return function.get("name"), function.get("parameters") or {}


def _equal(value: Any, wanted: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, str) and isinstance(wanted, str):
        return standardize(value) == standardize(wanted)
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        whole_wanted = isinstance(value, float) and isinstance(wanted, int)
        return value == wanted and (not whole_wanted or schema.get("type") in _FLOAT_TYPES)
    if isinstance(value, list) and isinstance(wanted, list):
        items = schema.get("items") or {}
        pairs = zip(value, wanted, strict=False)
        return len(value) == len(wanted) and all(_equal(a, b, items) for a, b in pairs)
    if isinstance(value, dict) and isinstance(wanted, dict):
        return _equal_objects(value, wanted, schema.get("properties") or {})
    return value is None and wanted is None


def _equal_objects(value: dict, wanted: dict, properties: Mapping[str, Any]) -> bool:
    """Each key of `wanted` holds its accepted values, or just its value."""
    for key, got in value.items():
        if key not in wanted:
            return False
        schema = properties.get(key) or {}
        accepted = wanted[key] if isinstance(wanted[key], list) else [wanted[key]]
        if not matches_any(got, accepted, schema) and not _equal(got, wanted[key], schema):
            return False
    return all(
        key in value or (isinstance(accepted, list) and "" in accepted)
        for key, accepted in wanted.items()
    )


def _assignable(problems: list[list[str | None]], taken: frozenset[int] = frozenset()) -> bool:
    """Whether each call can be given a wanted one of its own."""
    if len(taken) == len(problems):
        return True
    row = problems[len(taken)]
    return any(
        problem is None and column not in taken and _assignable(problems, taken | {column})
        for column, problem in enumerate(row)
    )


def _misses_name(problem: str) -> bool:
    """A wrong name is the least telling of a call's problems."""
    return problem.startswith("called ")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

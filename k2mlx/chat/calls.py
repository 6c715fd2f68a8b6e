"""What a model wrote as a call: the name and number in its id, and whether it can be made.

K2's own ids are `functions.NAME:NUMBER`. Models leave out parts, and they imitate ids that a client
rewrote (`functions_NAME_1`), so all of these are read.
"""

import json
import re

# What a client makes of an id that may hold only letters, digits and underscores.
REWRITTEN_ID = re.compile(r"functions_(?P<name>.+)[_:](?P<number>[0-9]{1,9})", re.DOTALL)
NUMBER = re.compile(r"[0-9]{0,9}")


def read_call_id(header: str) -> tuple[str, int | None]:
    """Name and number in what a model wrote as a call's id; the name may be empty."""
    header = header.strip()
    if match := REWRITTEN_ID.fullmatch(header):
        return match["name"].strip(), int(match["number"])
    name, colon, number = header.rpartition(":")
    if not colon or not NUMBER.fullmatch(number.strip()):
        name, number = header, ""
    number = number.strip()
    return name.removeprefix("functions.").strip(), int(number) if number else None


def call_error(name: str, arguments: str) -> str | None:
    """Why a call cannot be made, or None: it has a name, and its arguments are a JSON object."""
    if not name:
        return "the call has no function name"
    if any(character.isspace() for character in name):
        return f"the call's function name {name!r} has white space in it"
    if not arguments.strip():
        return "the call has no arguments; wanted a JSON object, {} when there are none"
    try:
        value = json.loads(arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return f"the arguments are not JSON: {error}"
    if not isinstance(value, dict):
        return f"the arguments are a JSON {type(value).__name__}, wanted an object"
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")

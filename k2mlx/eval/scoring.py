"""When a call of a builtin tool, and the answer after it, are right.

A call is right by what it means: an expression by its value, a place by its time zone, units by
what they measure. An answer is right when it says the tool's result, rounded or grouped as people
write numbers.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from k2mlx.agent.calculator import evaluate, numbers
from k2mlx.agent.clock import find_place
from k2mlx.agent.tools import BUILTIN, check_arguments
from k2mlx.agent.units import find_unit

# A rounded result may be off by this much: 0.33 for a third is an answer, 0.3 is not.
TOLERANCE = 0.01
# Numbers that a question may leave unsaid: a square's 2, a cube's 3, a percentage's 100.
IMPLIED = frozenset(map(Fraction, (2, 3, 100)))

_NUMBER = re.compile(r"(?<![\d.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|(?<![\d.])-?\d+(?:\.\d+)?")

Arguments = Mapping[str, Any]


def right_call(question: str, gold: Mapping[str, Any], name: str, arguments_json: str) -> bool:
    """Whether the call does what the gold call does."""
    try:
        arguments = json.loads(arguments_json)
    except (ValueError, RecursionError):
        return False
    if name != gold["name"] or check_arguments(_parameters(name), arguments):
        return False
    wanted = gold["arguments"]
    try:
        match name:
            case "calculator":
                return _right_expression(question, wanted["expression"], arguments["expression"])
            case "clock":
                return find_place(arguments["place"]).zone == find_place(wanted["place"]).zone
            case _:
                return _right_conversion(wanted, arguments)
    except ValueError:  # what the tool would have answered with an error
        return False


def _parameters(name: str) -> Mapping[str, Any]:
    return BUILTIN[name].spec["function"]["parameters"]


def _right_expression(question: str, wanted: str, expression: str) -> bool:
    """The same value, from the question's numbers: a result worked out in the head is wrong."""
    used = numbers(expression)
    said = [abs(Fraction(number)) for number in numbers_in(question)]
    allowed = {*said, *(number / 100 for number in said), *numbers(wanted), *IMPLIED}
    return len(used) > 1 and allowed >= set(used) and evaluate(expression) == evaluate(wanted)


def _right_conversion(wanted: Arguments, arguments: Arguments) -> bool:
    same_units = all(
        find_unit(arguments[key]) == find_unit(wanted[key]) for key in ("from_unit", "to_unit")
    )
    return same_units and arguments["value"] == wanted["value"]


def right_answer(kind: str, accepted: Sequence[str], text: str) -> bool:
    """Whether the final text says one of the accepted results."""
    if kind == "clock":
        # 9:05 is not in 19:05, nor 14 May in 114 May.
        return any(re.search(rf"(?<!\d){re.escape(one)}(?!\d)", text, re.I) for one in accepted)
    return any(_says(Decimal(one), shown) for one in accepted for shown in numbers_in(text))


def numbers_in(text: str) -> list[Decimal]:
    """The numbers that a text says, thousands commas removed."""
    found = _NUMBER.findall(text.replace("−", "-"))
    return [Decimal(number.replace(",", "")) for number in found]


def _says(result: Decimal, shown: Decimal) -> bool:
    """Whether `shown` is the result, rounded to the digits shown."""
    if shown == result:
        return True
    if result == result.to_integral_value():
        return False
    close = math.isclose(shown, result, rel_tol=TOLERANCE)
    last_digit = Decimal(1).scaleb(int(shown.as_tuple().exponent))
    return close and abs(shown - result) <= last_digit / 2

"""The rule that keeps a tenth of all tool calls out of training, for evaluation to ask for.

A call is held out by its values alone, whatever the wording around it: the numbers of an expression
in any order, the place of a clock question, the number and both units of a conversion. Generators
of training data drop what `is_held_out_call` says; `k2mlx eval tools` asks only for such calls.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from k2mlx.agent.units import UnitError, find_unit

ONE_IN = 10
# Products shown in the documentation and asked for by tests of the page.
ALWAYS_HELD_OUT = (frozenset({"1234", "5678"}),)

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


def is_held_out_value(text: str) -> bool:
    """Whether the values in `text` are held out: sha256(sorted numbers and words)[0] % 10 == 0.

    Case, thousands commas, order and a multiplication `x` do not matter: "12 * 7" is "7 x 12".
    """
    words = _words(text)
    if any(pair <= set(words) for pair in ALWAYS_HELD_OUT):
        return True
    digest = hashlib.sha256(" ".join(sorted(words)).encode()).digest()
    return bool(words) and digest[0] % ONE_IN == 0


def is_held_out_call(name: str, arguments: Mapping[str, Any] | str) -> bool:
    """Whether training must not contain this call of a builtin tool; others are never held out.

    `arguments` may be the JSON text. Units count as the unit meant (mi is miles); of a place only
    what stands before the first comma counts.
    """
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    if name == "calculator":
        return is_held_out_value(str(values.get("expression", "")))
    if name == "clock":
        return is_held_out_value(str(values.get("place", "")).split(",")[0])
    if name == "convert_units":
        units = (_unit(str(values.get(key, ""))) for key in ("from_unit", "to_unit"))
        return is_held_out_value(" ".join([str(values.get("value", "")), *units]))
    return False


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.casefold())
    return [
        _number(word) if word[0].isdigit() else word for word in _WORD.findall(text) if word != "x"
    ]


def _number(digits: str) -> str:
    return (
        f"{Decimal(digits):f}".rstrip("0").rstrip(".")
        if "." in digits
        else digits.lstrip("0") or "0"
    )


def _unit(text: str) -> str:
    try:
        return find_unit(text).name
    except UnitError:
        return text

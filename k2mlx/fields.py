"""Dataclasses from what a JSON or TOML file holds, each wrong value named: got, wanted.

Types are checked as the dataclass states them: bool is no number, 8.0 is an int, 8 is a float.
Parts whose types stand in none of these (dataclasses in dataclasses) must be built before.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import ConfigError, RequestError

MOST = 2**31 - 1  # MLX counts in 32 bits
NAMES = {bool: "true or false", str: "a string", dict: "an object", Path: "a path"}


def read_toml(path: Path, example: str) -> dict[str, Any]:
    """The tables of a TOML file. `example`: one that is there. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{path}: no such recipe, wanted a TOML file such as {example}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; mend that line") from None


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError for all that it does not: json.loads has other errors for
    text that is nested deeply, which a damaged file may well be."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_object(value: Any, where: str) -> dict[str, Any]:
    """`value`, which must be an object (in TOML's words, a table)."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where.rstrip('.: ')}: got {value!r}, wanted an object")
    return value


def build(cls: type[Any], values: Any, where: str) -> Any:
    """An instance of the dataclass `cls`. `where` stands before each key in a message.

    Raises ConfigError for a key that is unknown or missing, or a value of another type.
    """
    known = {field.name: field for field in fields(cls)}
    kinds = get_type_hints(cls)
    for key in check_object(values, where):
        if key not in known:
            raise ConfigError(f"{where}{key}: unknown key, wanted one of {', '.join(known)}")
    out = {}
    for name, field in known.items():
        if name in values:
            out[name] = _typed(values[name], kinds[name], where + name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}{name}: missing, wanted {_name(kinds[name])}")
    return cls(**out)


def check_positive(instance: Any, where: str, zero: tuple[str, ...]) -> None:
    """Every number in the dataclass is above 0; those named in `zero` may be 0."""
    kinds = get_type_hints(type(instance))
    for field in fields(instance):
        value, may_be_0 = getattr(instance, field.name), field.name in zero
        if kinds[field.name] in (int, float) and (value < 0 or (value == 0 and not may_be_0)):
            wanted = "0 or more" if may_be_0 else "more than 0"
            raise ConfigError(f"{where}{field.name}: got {value}, wanted {wanted}")


def want(good: Any, where: str, got: Any, wanted: str) -> None:
    """Raise a RequestError unless `good`: for the parts of messages and tools."""
    if not good:
        shown = repr(got)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise RequestError(f"{where}: got {shown}, wanted {wanted}")


def _typed(value: Any, kind: Any, where: str) -> Any:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    kind = get_origin(kinds[0]) or kinds[0]
    if kind in (int, float):
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and -MOST <= value <= MOST  # neither infinite nor NaN
        good = good and value == kind(value)
    else:
        good = kind not in NAMES or isinstance(value, kind)
    if not good:
        raise ConfigError(f"{where}: got {value!r}, wanted {_name(kind)}")
    return kind(value) if kind in (int, float) else value


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(kind) or NAMES.get(kind, "an object")

"""Dataclasses from files: what is right comes through, what is wrong is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import ConfigError, RequestError
from k2mlx.fields import build, check_positive, read_toml, want


@dataclass(frozen=True)
class Sample:
    size: int
    rate: float = 0.5
    on: bool = False
    name: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
)


def test_values_come_through_and_defaults_are_kept():
    values = {"size": 8.0, "rate": 1, "on": True, "name": None, "weights": {"a": 1.0}}
    built = build(Sample, values, "")
    assert built == Sample(8, 1.0, True, None, {"a": 1.0})
    assert (type(built.size), type(built.rate)) == (int, float)
    assert build(Sample, {"size": 1}, "").weights == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"part: got \[\], wanted an object"),
        ({}, r"part\.size: missing, wanted a whole number"),
        ({"size": 1, "sise": 2}, r"part\.sise: unknown key, wanted one of size, rate"),
        ({"size": True}, r"part\.size: got True, wanted a whole number"),
        ({"size": 1.5}, r"part\.size: got 1\.5, wanted a whole number"),
        ({"size": math.inf}, r"part\.size: got inf, wanted a whole number"),
        ({"size": 2**31}, r"part\.size: got 2147483648, wanted a whole number"),
        ({"size": None}, r"part\.size: got None, wanted a whole number"),
        ({"size": 1, "rate": math.nan}, r"part\.rate: got nan, wanted a number"),
        ({"size": 1, "rate": "2"}, r"part\.rate: got '2', wanted a number"),
        ({"size": 1, "on": 1}, r"part\.on: got 1, wanted true or false"),
        ({"size": 1, "name": 3}, r"part\.name: got 3, wanted a string"),
        ({"size": 1, "weights": [1]}, r"part\.weights: got \[1\], wanted an object"),
        ({"size": 1, "folder": "here"}, r"part\.folder: got 'here', wanted a path"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Sample, values, "part.")


@given(st.dictionaries(st.sampled_from([*Sample.__dataclass_fields__, "other"]), VALUES))
def test_any_content_is_built_or_refused(values):
    try:
        built = build(Sample, values, "")
    except ConfigError:
        return
    assert type(built.size) is int
    assert math.isfinite(built.rate)
    assert isinstance(built.weights, dict)


def test_numbers_that_must_be_above_0():
    check_positive(Sample(1, 0.0), "", zero=("rate",))
    with pytest.raises(ConfigError, match=r"part\.rate: got 0\.0, wanted more than 0"):
        check_positive(Sample(1, 0.0), "part.", zero=())
    with pytest.raises(ConfigError, match=r"rate: got -1\.0, wanted 0 or more"):
        check_positive(Sample(1, -1.0), "", zero=("rate",))


def test_toml_that_is_not_there_or_not_toml(tmp_path):
    (tmp_path / "good.toml").write_text("a = 1")
    assert read_toml(tmp_path / "good.toml", "") == {"a": 1}
    with pytest.raises(ConfigError, match=r"gone\.toml: no such recipe, .* such as models/x\.toml"):
        read_toml(tmp_path / "gone.toml", "models/x.toml")
    with pytest.raises(ConfigError, match="no such recipe"):
        read_toml(tmp_path, "models/x.toml")
    (tmp_path / "bad.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="not TOML"):
        read_toml(tmp_path / "bad.toml", "")


def test_long_values_are_shown_in_part():
    want(True, "x", "anything", "anything")
    with pytest.raises(RequestError, match=r"^x: got 'a{56}\.\.\., wanted b$"):
        want(False, "x", "a" * 99, "b")

"""The rule for calls that training must not contain."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.agent.heldout import is_held_out_call, is_held_out_value


def calculator(expression):
    return is_held_out_call("calculator", {"expression": expression})


@pytest.mark.parametrize("expression", ["1234 * 5678", "5678x1234", "1,234 + 5,678", "1234*5678*2"])
def test_the_product_of_the_documentation_is_held_out(expression):
    assert calculator(expression)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_the_numbers_of_an_expression_count(a, b):
    rule = calculator(f"{a} * {b}")
    for other in (f"{b} x {a}", f"{a}-{b}", f"({a:,} / {b}.0)", f"0{a} + {b}"):
        assert calculator(other) == rule


def test_a_tenth_is_held_out():
    share = sum(calculator(f"{a} * {b}") for a in range(100, 200) for b in range(50)) / 5000
    assert 0.08 < share < 0.13


def test_units_count_as_what_they_mean():
    for value in range(40):
        rules = {
            is_held_out_call("convert_units", {"value": value, "from_unit": a, "to_unit": b})
            for a, b in (("miles", "km"), ("mi", "kilometers"), ("Mile", "kilometre"))
        }
        assert len(rules) == 1


def test_places_count_by_their_first_part():
    assert is_held_out_call("clock", {"place": "Toronto"})
    assert is_held_out_call("clock", json.dumps({"place": "toronto, Canada"}))
    assert not is_held_out_call("clock", {"place": "Tokyo"})


def test_other_tools_and_empty_values_are_not_held_out():
    assert not is_held_out_call("weather", {"place": "Toronto"})
    assert not is_held_out_call("clock", {})
    assert not is_held_out_value("")

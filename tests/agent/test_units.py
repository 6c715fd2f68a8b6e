"""The unit table: known values, every spelling, there and back again."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.agent.units import UnitError, _lookup, convert, convert_exactly, find_unit, format_value

UNITS = sorted(_lookup()[1].items())


@pytest.mark.parametrize(
    ("value", "start", "goal", "result"),
    [
        (10, "miles", "km", "16.09344 km"),
        (3, "feet", "cm", "91.44 cm"),
        (100, "F", "C", "37.777778 C"),
        (98.6, "degrees Fahrenheit", "celsius", "37 celsius"),
        (-40, "°C", "° F", "-40 ° F"),
        (0, "kelvin", "Fahrenheit", "-459.67 Fahrenheit"),
        (1, "mm", "miles", "0.000000621371 miles"),
        (2, "sq ft", "m^2", "0.185806 m^2"),
        (60, "miles per hour", "km/h", "96.56064 km/h"),
        (100, "kilometres an hour", "mph", "62.137119 mph"),
        (5, "MB", "Mb", "40 Mb"),
        (5, "mb", "kilobytes", "5000 kilobytes"),
        (1, "GiB", "bytes", "1073741824 bytes"),
        (2.5, "lbs", "kg", "1.133981 kg"),
        (1, "imperial gallon", "litres", "4.54609 litres"),
        (1, "gallon", "liters", "3.785412 liters"),
        (1, "cubic foot", "cu in", "1728 cu in"),
        (180, "degrees", "radians", "3.141593 radians"),
        (1, "kWh", "MJ", "3.6 MJ"),
        (1, "MW", "mW", "1000000000 mW"),
        (1, "atm", "psi", "14.695949 psi"),
        (1, "fortnight", "hours", "336 hours"),
        (0.1, "km", "m", "100 m"),
        (12, "inches", " feet ", "1 feet"),
    ],
)
def test_values(value, start, goal, result):
    assert convert(value, start, goal) == result


@pytest.mark.parametrize(
    ("value", "start", "goal", "message"),
    [
        (1, "kg", "km", "cannot convert kg (mass) to km (length)"),
        (1, "smoots", "m", "unknown unit 'smoots'"),
        (1, "", "m", "unknown unit ''"),
        (math.inf, "m", "km", "finite"),
        (math.nan, "m", "km", "finite"),
    ],
)
def test_refused(value, start, goal, message):
    with pytest.raises(UnitError) as error:
        convert(value, start, goal)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ("m meter meters METRES Metre", "meter"),
        ("B byte Bytes", "byte"),
        ("Mb Mbit megabits", "megabit"),
        ("mW milliwatts", "milliwatt"),
        ("MW megawatt mw", "megawatt"),
        ("K kelvin k", "kelvin"),
        ("h hr hrs hours", "hour"),
    ],
)
def test_spellings(spellings, name):
    assert {find_unit(word).name for word in spellings.split()} == {name}


def test_enough_units_of_every_kind():
    assert len({unit for _, unit in UNITS}) >= 120
    assert len({unit.kind for _, unit in UNITS}) == 12


@given(st.sampled_from(UNITS))
def test_every_name_is_found_in_any_case(pair):
    name, unit = pair
    assert find_unit(name.upper()).kind == unit.kind
    assert find_unit(f" {name}. ").kind == unit.kind


@st.composite
def two_of_a_kind(draw):
    first = draw(st.sampled_from(UNITS))
    second = draw(st.sampled_from([pair for pair in UNITS if pair[1].kind == first[1].kind]))
    return first, second


@given(two_of_a_kind(), st.integers(-(10**9), 10**9))
def test_there_and_back(pair, value):
    first, second = pair
    there = convert_exactly(value, first[0], second[0])
    source, target = find_unit(first[0]), find_unit(second[0])
    assert (there * target.factor + target.offset - source.offset) / source.factor == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_unit_to_itself_keeps_the_value(value):
    assert convert_exactly(value, "m", "meters") == Fraction(str(value))


@given(st.fractions())
def test_printed_values_are_near(value):
    printed = Fraction(format_value(value))
    bound = Fraction(1, 10**6) if abs(value) >= 1 else abs(value) / 10**5
    assert abs(printed - value) <= bound


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_gives_a_result_or_a_reason(start, goal):
    try:
        convert(1, start, goal)
    except UnitError as error:
        assert str(error)

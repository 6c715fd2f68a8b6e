"""The calculator: exact arithmetic, how numbers are printed, and what it refuses."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.agent.calculator import CalculationError, calculate, evaluate, format_number, numbers


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1234 * 5678", "7006652"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 3", "3.333333333"),
        ("2 / 3", "0.6666666667"),
        ("1 / 3000000", "0.0000003333333333"),
        ("10**12 / 7", "142857142857"),
        ("100 / 4", "25"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7.5 % 2", "1.5"),
        ("-2 ** 2", "-4"),
        ("2 ** 3 ** 2", "512"),
        ("2 ** -2", "0.25"),
        ("2 ** -1 ** 2", "0.5"),
        ("16 ** 0.5", "4"),
        ("8 ** (1/3)", "2"),
        ("2 ** 0.5", "1.414213562"),
        ("0 ** 0.5", "0"),
        ("(-1) ** 100001", "-1"),
        ("2 ^ 10", "1024"),
        ("12 x 7", "84"),
        ("12×7", "84"),
        ("9 ÷ 2", "4.5"),
        ("5 − 8", "-3"),
        ("1,234,567.5 + 1", "1234568.5"),
        ("--3", "3"),
        ("5 - -3", "8"),
        ("1e3 + .5", "1000.5"),
        ("1e-30", "1e-30"),
        ("((((1))))", "1"),
        ("15 / 100 * 80", "12"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("0 * -1.5", "0"),
    ],
)
def test_values(expression, result):
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("1 / 0", "division by zero"),
        ("1 // 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too many digits"),
        ("1.5 ** 99999", "too many digits"),
        ("10 ** 0.5 ** -20", "too many digits"),
        ("1e999", "too large"),
        ("(-8) ** (1/3)", "not a real number"),
        ("(1 + 2", "closing parenthesis"),
        ("1 + 2)", "unexpected ')'"),
        ("1 +", "ends where a number should be"),
        ("* 2", "a number should be where '*' is"),
        ("3 (4)", "unexpected '('"),
        ("3 4", "unexpected '4'"),
        ("12,34", "cannot read ',34'"),
        ("15% of 80", "cannot read 'of 80'"),
        ("__import__('os')", "cannot read"),
        ("1" * 501, "longer than 500"),
        ("(" * 60 + "1" + ")" * 60, "levels of nesting"),
        ("2" + " ** 1" * 60, "levels of nesting"),
    ],
)
def test_refused(expression, message):
    with pytest.raises(CalculationError) as error:
        calculate(expression)
    assert message in str(error.value)


def expressions(depth=3):
    """(text, value) of expressions without division by zero or powers."""
    whole = st.integers(0, 10**6).map(lambda n: (str(n), Fraction(n)))
    decimal = st.tuples(st.integers(0, 999), st.integers(0, 99)).map(
        lambda p: (f"{p[0]}.{p[1]:02}", Fraction(f"{p[0]}.{p[1]:02}"))
    )

    def combine(children):
        pairs = st.tuples(children, st.sampled_from("+-*/%"), children)
        sums = pairs.map(
            lambda p: (f"({p[0][0]} {p[1]} {p[2][0]})", _apply(p[1], p[0][1], p[2][1]))
        )
        signs = children.map(lambda c: (f"-{c[0]}", None if c[1] is None else -c[1]))
        return sums | signs

    return st.recursive(whole | decimal, combine, max_leaves=6)


def _apply(operator, left, right):
    if left is None or right is None or (operator in "/%" and right == 0):
        return None
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "%": lambda: left % right,
    }[operator]()


@given(expressions())
def test_equals_fractions(pair):
    text, value = pair
    if value is None:
        with pytest.raises(CalculationError, match="division by zero"):
            evaluate(text)
    else:
        assert evaluate(text) == value


@given(st.integers(), st.integers())
def test_without_parentheses_python_agrees(a, b):
    text = f"{a} - {b} * 3 + {a} % 7"
    assert evaluate(text) == a - b * 3 + a % 7


@given(st.text(alphabet="0123456789+-*/%().,exX^ \n٣é'", max_size=40))
def test_any_text_gives_a_result_or_a_reason(text):
    try:
        result = calculate(text)
    except CalculationError as error:
        assert str(error)
    else:
        Fraction(result)


@given(st.fractions())
def test_printed_numbers_are_near(value):
    printed = Fraction(format_number(value))
    assert abs(printed - value) <= abs(value) / 10**9


@given(st.integers(-(10**30), 10**30), st.integers(0, 6))
def test_short_decimals_are_exact(number, places):
    value = Fraction(number, 10**places)
    digits = len(str(abs(number)))
    if digits <= 15:
        assert Fraction(format_number(value)) == value


def test_refuses_large_powers_at_once():
    start = time.perf_counter()
    for text in ("9**9**9**9", "(2**1000)**1000", "1.0000001**999999999"):
        with pytest.raises(CalculationError):
            calculate(text)
    assert time.perf_counter() - start < 1


def test_numbers_of_an_expression():
    assert numbers("1,200 * (3 - 0.5)") == [1200, 3, Fraction(1, 2)]

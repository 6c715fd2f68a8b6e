"""When a call and an answer are right."""

import json

import pytest

from k2mlx.eval.scoring import numbers_in, right_answer, right_call


def calculator(expression):
    return {"name": "calculator", "arguments": {"expression": expression}}


@pytest.mark.parametrize(
    ("question", "gold", "expression", "right"),
    [
        ("What is 12 times 7?", "12 * 7", "12 * 7", True),
        ("What is 12 times 7?", "12 * 7", "7*12", True),
        ("What is 12 times 7?", "12 * 7", "84", False),
        ("What is 12 times 7?", "12 * 7", "42 * 2", False),
        ("What is 12 times 7?", "12 * 7", "12 + 7", False),
        ("What is 12 times 7?", "12 * 7", "12 *", False),
        ("What is 12,345 plus 1?", "12345 + 1", "12,345 + 1", True),
        ("30 squared", "30 ** 2", "30 * 30", True),
        ("30 squared", "30 ** 2", "30 ** 2", True),
        ("15% of 80", "15 / 100 * 80", "0.15 * 80", True),
        ("15% of 80", "15 / 100 * 80", "80 * 15 / 100", True),
        ("15% of 80", "15 / 100 * 80", "0.12 * 100", False),
        ("-41 + 92", "-41 + 92", "92 - 41", True),
        ("1 divided by 3", "1 / 3", "1 / 3", True),
        ("1 divided by 0", "1 * 0", "1 / 0", False),
    ],
)
def test_expressions(question, gold, expression, right):
    arguments = json.dumps({"expression": expression})
    assert right_call(question, calculator(gold), "calculator", arguments) is right


@pytest.mark.parametrize(
    ("name", "arguments", "right"),
    [
        ("clock", '{"place": "Boston"}', True),
        ("clock", '{"place": "boston, USA"}', True),
        ("clock", '{"place": "Bostn"}', False),
        ("clock", '{"place": "Tokyo"}', False),
        ("clock", '{"city": "Boston"}', False),
        ("clock", '{"place": ["Boston"]}', False),
        ("clock", '{"place": ', False),
        ("calculator", '{"expression": "1 + 1"}', False),
        ("weather", '{"place": "Boston"}', False),
    ],
)
def test_places(name, arguments, right):
    gold = {"name": "clock", "arguments": {"place": "Boston"}}
    assert right_call("Time in Boston?", gold, name, arguments) is right


@pytest.mark.parametrize(
    ("value", "start", "goal", "right"),
    [
        (2.5, "miles", "km", True),
        (2.5, "mi", "kilometres", True),
        (2.50, "Mile", "KM", True),
        (2, "miles", "km", False),
        (2.5, "km", "miles", False),
        (2.5, "miles", "meters", False),
        (2.5, "miles", "kg", False),
        ("2.5", "miles", "km", False),
    ],
)
def test_conversions(value, start, goal, right):
    wanted = {"value": 2.5, "from_unit": "miles", "to_unit": "km"}
    gold = {"name": "convert_units", "arguments": wanted}
    arguments = json.dumps({"value": value, "from_unit": start, "to_unit": goal})
    assert right_call("2.5 miles in km?", gold, "convert_units", arguments) is right


@pytest.mark.parametrize(
    ("result", "text", "right"),
    [
        ("7006652", "1234 * 5678 = 7006652.", True),
        ("7006652", "That is 7,006,652", True),
        ("7006652", "That is 70066520", False),
        ("7006652", "About 7006650", False),
        ("7006652", "", False),
        ("-12046", "It is −12,046.", True),
        ("-12046", "It is 12046.", False),
        ("3.333333333", "It is 3.333333333.", True),
        ("3.333333333", "It is 3.33.", True),
        ("3.333333333", "It is 3.3333334.", False),
        ("3.333333333", "It is 3.34.", False),
        ("3.333333333", "It is 3.", False),
        ("0.333333", "0.33 minutes", True),
        ("219816.272966", "about 219,816 feet", True),
        ("219816.272966", "about 219,816.27 feet", True),
        ("219816.272966", "about 220000 feet", False),
        ("16.09344", "16.09344km", True),
        ("42", "4.2 or 42.0", True),
        ("42", "4.2", False),
        ("42", "142 and 423", False),
    ],
)
def test_numbers_in_answers(result, text, right):
    assert right_answer("calculator", [result], text) is right


@pytest.mark.parametrize(
    ("accepted", "text", "right"),
    [
        (["09:37", "9:37 am"], "It is 09:37 on Thursday.", True),
        (["09:37", "9:37 am"], "It's 9:37 AM there", True),
        (["09:37", "9:37 am"], "It is 19:37.", False),
        (["01:37", "1:37 pm"], "It's 11:37 pm", False),
        (["Thursday"], "it is thursday", True),
        (["Thursday"], "It is Friday", False),
        (["14 May", "May 14"], "Today is May 14, 2026.", True),
        (["4 May", "May 4"], "Today is 14 May.", False),
    ],
)
def test_times_in_answers(accepted, text, right):
    assert right_answer("clock", accepted, text) is right


def test_numbers_of_a_text():
    assert [str(n) for n in numbers_in("1,234.5 and -7, then 3.1.2 and 10,20")] == [
        *("1234.5", "-7", "3.1", "10", "20")
    ]

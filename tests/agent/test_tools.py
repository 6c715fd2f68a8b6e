"""Tools: the declarations that models were trained on, and calls that must never raise."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.agent.tools import BUILTIN, Tool, builtin_tools, check_arguments, function_spec, run_call

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def declared(name, description, **parameters):
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": kind, "description": text}
                    for key, (kind, text) in parameters.items()
                },
                "required": list(parameters),
            },
        },
    }


def test_declarations_are_those_of_the_training_data():
    assert [tool.spec for tool in BUILTIN.values()] == [
        declared(
            "calculator",
            "Evaluate an arithmetic expression and return the number.",
            expression=(
                "string",
                "Arithmetic with + - * / % ** and parentheses, such as 12 * (3 + 4)",
            ),
        ),
        declared(
            "clock",
            "Tell the current date and time in a city or time zone.",
            place=("string", "City, country or time zone, such as Tokyo or UTC"),
        ),
        declared(
            "convert_units",
            "Convert a value from one unit to another.",
            value=("number", "The number to convert"),
            from_unit=("string", "Unit to convert from, such as miles"),
            to_unit=("string", "Unit to convert to, such as km"),
        ),
    ]
    assert list(BUILTIN) == [tool.name for tool in BUILTIN.values()]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("calculator", {"expression": "1234 * 5678"}, "7006652"),
        ("convert_units", {"value": 10, "from_unit": "miles", "to_unit": "km"}, "16.09344 km"),
        (
            "clock",
            {"place": "Tokyo"},
            "14:05 on Sunday 22 November 2026 in Tokyo (UTC+09:00)",
        ),
    ],
)
def test_results(name, arguments, result):
    tools = builtin_tools(lambda: datetime(2026, 11, 22, 5, 5, tzinfo=UTC))
    assert run_call(tools, name, json.dumps(arguments)) == result


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "weather",
            "{}",
            "unknown tool 'weather'; the tools are: calculator, clock, convert_units",
        ),
        ("clock", "{", "not valid JSON"),
        ("clock", "", "not valid JSON"),
        ("clock", "[" * 100_000, "not valid JSON"),
        ("clock", '["Tokyo"]', 'must be a JSON object, got ["Tokyo"]'),
        ("clock", "{}", "'place' is missing"),
        ("clock", '{"place": 3}', "'place' must be a string, got 3"),
        ("clock", '{"place": null}', "must be a string, got null"),
        ("clock", '{"place": "Rome", "format": "24h"}', "unknown argument 'format'"),
        ("clock", '{"place": "Atlantis"}', "unknown place 'Atlantis'"),
        ("calculator", '{"expression": "1 / 0"}', "division by zero"),
        ("convert_units", '{"value": "1", "from_unit": "m", "to_unit": "km"}', "must be a number"),
        ("convert_units", '{"value": true, "from_unit": "m", "to_unit": "km"}', "must be a number"),
        ("convert_units", '{"value": NaN, "from_unit": "m", "to_unit": "km"}', "finite"),
    ],
)
def test_problems_are_answers(name, arguments, message):
    answer = run_call(BUILTIN, name, arguments)
    assert answer.startswith("Error: ")
    assert message in answer
    assert "\n" not in answer


@given(st.sampled_from([*BUILTIN, "other"]), st.text())
def test_never_raises_on_text(name, arguments):
    assert isinstance(run_call(BUILTIN, name, arguments), str)


@given(st.sampled_from(list(BUILTIN)), st.data())
def test_never_raises_on_json(name, data):
    keys = list(BUILTIN[name].spec["function"]["parameters"]["properties"])
    arguments = data.draw(JSON | st.fixed_dictionaries(dict.fromkeys(keys, JSON)))
    assert isinstance(run_call(BUILTIN, name, json.dumps(arguments)), str)


def test_a_tool_that_breaks_is_an_answer():
    def broken(_):
        raise KeyError("inside")

    tool = Tool("broken", function_spec("broken", "Breaks.", {}), broken)
    assert run_call({"broken": tool}, "broken", "{}") == "Error: broken failed: KeyError: 'inside'"


@pytest.mark.parametrize(
    ("schema", "value", "wanted"),
    [
        ({"type": "integer"}, 1.5, "an integer"),
        ({"type": "integer"}, True, "an integer"),
        ({"type": "number"}, 1, None),
        ({"type": "boolean"}, 1, "true or false"),
        ({"type": ["string", "null"]}, None, None),
        ({"type": ["string", "null"]}, 1, "a string or null"),
        ({"type": "array"}, {}, "an array"),
        ({"enum": ["a", "b"]}, "c", 'one of "a", "b"'),
        ({"type": "unheard of"}, 1, None),
        ({}, {"any": 1}, None),
    ],
)
def test_argument_types(schema, value, wanted):
    problem = check_arguments({"properties": {"x": schema}}, {"x": value})
    assert problem is None if wanted is None else wanted in problem


def test_optional_and_additional_arguments():
    schema = {"properties": {"a": {"type": "string"}}, "additionalProperties": True}
    assert check_arguments(schema, {}) is None
    assert check_arguments(schema, {"b": 1}) is None

"""When calls are the wanted ones: a table of BFCL's rules, and the assignment of parallel calls."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.eval.matching import match_call, match_calls, matches_any, standardize


def tool(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
FLOATS = {"type": "array", "items": NUMBER}
PLACE = {"type": "object", "properties": {"lat": NUMBER, "zoom": INTEGER}}


@pytest.mark.parametrize(
    ("value", "accepted", "schema", "right"),
    [
        # strings: case, spaces and some punctuation do not matter
        ("Paris", ["paris"], STRING, True),
        ("April 1, 2024", ["April 1 2024"], STRING, True),
        ("2024-04-01", ["2024/04/01"], STRING, True),
        ("snake_case", ["Snake Case"], STRING, True),
        ("it's", ['it"s'], STRING, True),
        ("x^2", ["x**2"], STRING, True),
        ("x+2", ["x*2"], STRING, False),
        ("Paris!", ["Paris"], STRING, False),
        ("London", ["Paris", "London"], STRING, True),
        ("", ["", "Paris"], STRING, True),
        # types
        ("5", [5], INTEGER, False),
        (5, ["5"], STRING, False),
        (5, [5], INTEGER, True),
        (5, [5.0], NUMBER, True),
        (5, [5.0], INTEGER, True),
        (5.0, [5], NUMBER, True),
        (5.0, [5], {"type": "float"}, True),
        (5.0, [5], INTEGER, False),
        (5.0, [5], {}, False),
        (5.5, [5.5], {}, True),
        (5.0000001, [5], NUMBER, False),
        (True, [True], {"type": "boolean"}, True),
        (True, [1], INTEGER, False),
        (1, [True], {"type": "boolean"}, False),
        (1.0, [True], {"type": "boolean"}, False),
        ("true", [True], {"type": "boolean"}, False),
        (False, [""], {"type": "boolean"}, False),
        (None, [None], {}, True),
        (None, ["", "x"], STRING, False),
        (0, [""], INTEGER, False),
        # lists: item by item, in order
        ([1, 2], [[1, 2]], FLOATS, True),
        ([2, 1], [[1, 2]], FLOATS, False),
        ([2, 1], [[1, 2], [2, 1]], FLOATS, True),
        ([1], [[1, 2]], FLOATS, False),
        ([1, 2, 3], [[1, 2]], FLOATS, False),
        ([1.0, 2], [[1, 2]], FLOATS, True),
        ([1.0, 2], [[1, 2]], {"type": "array", "items": INTEGER}, False),
        (["New York", "PARIS"], [["new-york", "paris"]], {"type": "array"}, True),
        ([True], [[1]], {"type": "array"}, False),
        ([[1, 2], [3]], [[[1, 2], [3]]], {"type": "array"}, True),
        ([], [[]], {"type": "array"}, True),
        ("a", [["a"]], {"type": "array"}, False),
        (["a"], ["a"], STRING, False),
        # objects: each key with its accepted values
        ({"lat": 1.0, "zoom": 3}, [{"lat": [1], "zoom": [3]}], PLACE, True),
        ({"lat": 1.0, "zoom": 3.0}, [{"lat": [1], "zoom": [3]}], PLACE, False),
        ({"lat": 1}, [{"lat": [1], "zoom": ["", 3]}], PLACE, True),
        ({"lat": 1}, [{"lat": [1], "zoom": [3]}], PLACE, False),
        ({"lat": 1, "zoom": 3, "extra": 1}, [{"lat": [1], "zoom": [3]}], PLACE, False),
        ({"city": "ROME"}, [{"city": ["Paris", "Rome"]}], {"type": "dict"}, True),
        ({"city": "Rome"}, [{"city": "rome"}], {"type": "object"}, True),
        ({"tags": ["a", "b"]}, [{"tags": [["a", "b"]]}], {"type": "object"}, True),
        ({"tags": ["a", "b"]}, [{"tags": ["a", "b"]}], {"type": "object"}, True),
        ({"in": {"deep": 1}}, [{"in": [{"deep": [1, 2]}]}], {"type": "object"}, True),
        ({"in": {"deep": 3}}, [{"in": [{"deep": [1, 2]}]}], {"type": "object"}, False),
        ({}, [{}], {"type": "object"}, True),
        ([{"a": 1}, {"a": 2}], [[{"a": [1]}, {"a": [2]}]], {"type": "array"}, True),
        ([{"a": 2}, {"a": 1}], [[{"a": [1]}, {"a": [2]}]], {"type": "array"}, False),
    ],
)
def test_values(value, accepted, schema, right):
    assert matches_any(value, accepted, schema) is right


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (call("find", city="Paris"), None),
        (call("find", city="Paris", limit=5), None),
        (call("find", city="Paris", limit=6), "'limit' is 6"),
        (call("find", city="Paris", unit="km"), "unexpected argument 'unit'"),
        (call("find", limit=5), "required argument 'city' is missing"),
        (call("look", city="Paris"), "called 'look', wanted 'find'"),
        (call("Find", city="Paris"), "called 'Find'"),
        ({"name": "find", "arguments": "{broken"}, "wanted an object"),
    ],
)
def test_calls(made, problem):
    gold = call("find", city=["Paris"], limit=["", 5])
    schemas = {"find": {"properties": {"city": STRING, "limit": INTEGER}, "required": ["city"]}}
    found = match_call(made, gold, schemas)
    assert found is None if problem is None else problem in found


def test_an_argument_may_be_left_out_only_where_the_empty_string_is_accepted():
    assert match_call(call("f"), call("f", x=[1, ""])) is None
    assert "missing" in match_call(call("f"), call("f", x=[1]))
    required = [tool("f", ["x"], x=INTEGER)]
    assert "required" in match_calls([call("f")], [call("f", x=[1, ""])], required)


def test_a_bare_function_is_a_tool_too():
    bare = [tool("f", ["x"], x=INTEGER)["function"]]
    assert "required" in match_calls([call("f")], [call("f", x=[1, ""])], bare)


def test_no_call_is_right_when_none_is_wanted():
    assert match_calls([], []) is None
    assert match_calls([call("f")], []) == "made 1 calls, wanted 0"
    assert match_calls([], [call("f")]) == "made 0 calls, wanted 1"


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_parallel_calls_match_in_any_order_unless_asked(first, second):
    made = [call("f", x=n) for n in first]
    gold = [call("f", x=[n]) for n in second]
    assert match_calls(made, gold) is None
    assert (match_calls(made, gold, order=True) is None) == (first == second)


@given(st.lists(st.sets(st.integers(0, 3)), min_size=4, max_size=4))
def test_parallel_calls_are_assigned_wherever_they_can_be(accepted):
    made = [call("f", x=n) for n in range(4)]
    gold = [call("f", x=sorted(values)) for values in accepted]
    possible = any(
        all(n in accepted[place] for n, place in enumerate(places))
        for places in itertools.permutations(range(4))
    )
    assert (match_calls(made, gold) is None) == possible


def test_a_call_made_twice_does_not_stand_for_two():
    made = [call("f", x=1), call("f", x=1)]
    assert "accepted are [2]" in match_calls(made, [call("f", x=[1]), call("f", x=[2])])


@given(st.text())
def test_standardizing_twice_changes_nothing(text):
    assert standardize(standardize(text)) == standardize(text)

"""`k2mlx eval calls`: reading cases, scoring turns, the figures."""

import json

import pytest

from k2mlx.chat import parse_text
from k2mlx.errors import RequestError
from k2mlx.eval.calls import evaluate, read_cases, summary

USER = [{"role": "user", "content": "Weather in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
GOLD = [{"name": "weather", "arguments": {"city": ["Rome", "Roma"]}}]


def line(**changes):
    case = {"id": "a", "messages": USER, "tools": [WEATHER], "gold": GOLD, **changes}
    return json.dumps(case)


def cases_of(tmp_path, *lines):
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_cases(path)


def made(*calls):
    text = "".join(
        f"<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|>"
        for number, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{text}<|tool_calls_section_end|><|im_end|>"


def says(*outputs):
    queue = list(outputs)
    return lambda messages, tools: list(parse_text(queue.pop(0), reasoning="none"))


def test_reads_cases(tmp_path):
    bare = line(id="b", tools=[WEATHER["function"]], order=True, gold=[])
    first, second, third = cases_of(tmp_path, line(), "", bare, line(id=7, tools=None))
    assert (first.id, first.kind, first.order) == ("a", "one", False)
    assert (second.kind, second.order, second.tools) == ("none", True, [WEATHER])
    assert (third.id, third.tools) == ("7", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "wanted a JSON object"),
        ('{"gold": []}', "messages: got 'nothing'"),
        (line(messages=[]), "at least one message"),
        (line(messages=[{"content": "x"}]), "messages[0].role"),
        (line(tools="weather"), "tools"),
        (line(order="yes"), "order: got 'yes', wanted true or false"),
        (line(gold=None), "gold: got None, wanted a list of calls"),
        (line(gold=["weather"]), "gold[0]: got 'weather'"),
        (line(gold=[{"arguments": {}}]), "gold[0].name: got None"),
        (line(gold=[{"name": "f"}]), "gold[0].arguments: got None"),
        (
            line(gold=[{"name": "f", "arguments": {"x": "Rome"}}]),
            "gold[0].arguments.x: got 'Rome', wanted a list of accepted values",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    with pytest.raises(RequestError) as error:
        cases_of(tmp_path, line(), "", text)
    assert "line 3: " in str(error.value)
    assert message in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        read_cases(tmp_path / "missing.jsonl")
    with pytest.raises(RequestError, match="no cases"):
        cases_of(tmp_path, "")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="cannot be read"):
        read_cases(tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (made(("weather", '{"city": "ROME"}')), None),
        ("Let me see. " + made(("weather", '{"city": "Roma"}')), None),
        (made(("weather", '{"city": "Oslo"}')), "'city' is 'Oslo'"),
        (made(("weather", '{"city": ')), "wanted an object"),
        (made(("weather", '{"city": "Rome"}'), ("weather", '{"city": "Rome"}')), "made 2 calls"),
        ("It is sunny.<|im_end|>", "made 0 calls"),
    ],
)
def test_scores_a_turn(tmp_path, output, problem):
    (outcome,) = evaluate(cases_of(tmp_path, line()), says(output))
    assert outcome.problem is None if problem is None else problem in outcome.problem
    assert outcome.to_json()["right"] is (problem is None)


def test_a_call_cut_off_is_wrong_even_where_it_reads_right(tmp_path):
    cut = made(("weather", '{"city": "Rome"}')).partition("<|tool_call_end|>")[0]
    (outcome,) = evaluate(cases_of(tmp_path, line()), says(cut))
    assert "cut off" in outcome.problem


def test_a_case_that_cannot_be_asked_is_wrong_and_the_next_goes_on(tmp_path):
    answers = [RequestError("prompt has 9999 tokens"), list(parse_text("Hi", reasoning="none"))]

    def ask(messages, tools):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    seen = []
    outcomes = evaluate(cases_of(tmp_path, line(), line(gold=[])), ask, seen.append)
    assert seen == outcomes
    assert "9999" in outcomes[0].problem
    assert outcomes[1].problem is None


def test_figures(tmp_path):
    rome, oslo = ("weather", '{"city": "Rome"}'), ("weather", '{"city": "Oslo"}')
    cases = cases_of(tmp_path, line(), line(), line(gold=GOLD * 2), line(gold=[]))
    outcomes = evaluate(cases, says(made(rome), made(oslo), made(rome, rome), "Hello"))
    assert summary(outcomes) == {
        "accuracy": 0.75,
        "n": 4,
        "right": 3,
        "by_calls": {
            "none": {"accuracy": 1.0, "n": 1},
            "one": {"accuracy": 0.5, "n": 2},
            "several": {"accuracy": 1.0, "n": 1},
        },
    }

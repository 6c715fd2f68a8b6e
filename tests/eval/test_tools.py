"""`k2mlx eval tools` with scripted models: one that does everything right, and ones that do not."""

import json

import pytest

from k2mlx.agent.loop import run_turn
from k2mlx.chat import End, Text, parse_text
from k2mlx.errors import RequestError
from k2mlx.eval.questions import read_questions
from k2mlx.eval.tools import MAX_ROUNDS, evaluate, summary, table

CASES = read_questions()


class Scripted:
    """A model that makes the call that `calls` gives, then says what `says` makes of its result."""

    def __init__(self, calls, says):
        self.calls, self.says = calls, says

    def run(self, messages, tools, number):
        self.case = CASES[number]
        return run_turn(None, messages, tools, None, MAX_ROUNDS, stream=self.stream)

    def stream(self, engine, messages, tools, sampling, thinking, on_progress):
        if messages[-1]["role"] == "tool":
            output = self.says(messages[-1]["content"])
        elif (call := self.calls(self.case)) is None:
            output = "Nice to talk to you 42 times!"
        else:
            output = (
                "Let me see: 7006652. <|tool_calls_section_begin|><|tool_call_begin|>"
                f"functions.{call['name']}:0<|tool_call_argument_begin|>"
                f"{json.dumps(call['arguments'])}<|tool_call_end|><|tool_calls_section_end|>"
            )
        return Played(parse_text(output + "<|im_end|>", reasoning="none"))


class Played:
    stats, runs = None, ()

    def __init__(self, events):
        self.events = events

    def __iter__(self):
        return iter(self.events)

    def cancel(self):
        raise AssertionError("nobody cancels here")


def gold(case):
    return case["gold"]


def figures(calls, says):
    return summary(evaluate(CASES, Scripted(calls, says).run))


def test_a_perfect_model():
    found = figures(gold, lambda result: f"That is {result}.")
    assert found["calls_accuracy"] == found["answer_accuracy"] == 1
    assert found["answer_accuracy_after_right_call"] == 1
    assert found["false_call_rate"] == 0
    assert found["n_questions"] == 300
    assert found["n_no_tool"] == 126
    assert set(found["by_kind"]) == {"calculator", "clock", "convert_units"}


def test_a_model_that_never_calls():
    found = figures(lambda case: None, None)
    assert found["calls_accuracy"] == found["answer_accuracy"] == 0
    assert found["answer_accuracy_after_right_call"] is None
    assert found["false_call_rate"] == 0


def test_a_model_that_always_calls_the_clock():
    found = figures(lambda case: {"name": "clock", "arguments": {"place": "Accra"}}, str)
    assert found["false_call_rate"] == 1
    assert found["calls_accuracy"] == 0
    assert found["by_kind"]["calculator"]["answer_accuracy"] == 0


def test_a_model_that_does_not_read_the_result():
    found = figures(gold, lambda result: "Here you are!")
    assert found["calls_accuracy"] == 1
    assert found["answer_accuracy"] == 0


def test_a_model_that_calls_again():
    def again(result):
        return parse_again if result else ""

    parse_again = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.clock:1"
        '<|tool_call_argument_begin|>{"place": "UTC"}<|tool_call_end|><|tool_calls_section_end|>'
    )
    found = figures(gold, again)
    assert found["calls_accuracy"] == found["answer_accuracy"] == 0


def test_the_result_must_stand_after_the_call():
    case = next(case for case in CASES if case["kind"] == "calculator")
    (outcome,) = evaluate([case], lambda *_: [Text(case["answer"][0]), End("stop")])
    assert outcome.right_answer is False


def test_a_turn_that_outgrows_the_context_is_wrong():
    def broken(*_):
        raise RequestError("too long")

    outcomes = evaluate(CASES[:2], broken)
    assert [outcome.right for outcome in outcomes] == [False, False]


def test_outcomes_say_what_happened():
    seen = []
    evaluate(CASES[:1], Scripted(gold, lambda result: f"It is {result}").run, seen.append)
    written = seen[0].to_json()
    assert written["id"] == CASES[0]["id"]
    assert written["right_call"] and written["right_answer"]
    assert written["calls"][0]["name"] == "calculator"
    assert json.dumps(written)


@pytest.mark.parametrize("word", ["calculator", "clock", "convert_units", "all", "no tool", "%"])
def test_table(word):
    assert word in table(figures(gold, str))


def test_table_of_nothing():
    assert "-" in table(summary([]))

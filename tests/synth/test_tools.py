"""Conversations with the three tools: calls mean what was asked, answers say the results."""

import json
import re
from datetime import UTC, datetime
from random import Random

import pytest

from k2mlx.agent.heldout import is_held_out_call
from k2mlx.agent.tools import BUILTIN, builtin_tools, check_arguments
from k2mlx.eval.heldout import matches_held_out_template
from k2mlx.synth import arithmetic, make
from k2mlx.synth.toolbox import Toolbox

KINDS = ("calculator", "clock", "units", "mixed")


def _drawn(kind: str, count: int, seed: int = 11) -> list[dict]:
    return list(make.records(kind, count, seed, matches_held_out_template))


def _calls(record: dict) -> list[tuple[str, dict, str]]:
    """(name, arguments, result) of every call."""
    results = {m["tool_call_id"]: m["content"] for m in record["messages"] if m["role"] == "tool"}
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]), results[call["id"]])
        for message in record["messages"]
        for call in message.get("tool_calls", ())
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_held_out_is_generated(kind):
    for record in _drawn(kind, 500):
        for name, arguments, _ in _calls(record):
            assert not is_held_out_call(name, arguments)
        for message in record["messages"]:
            assert message["role"] != "user" or not matches_held_out_template(message["content"])


def test_the_page_test_s_product_is_refused():
    record = {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "function": {
                            "name": "calculator",
                            "arguments": '{"expression": "1234 * 5678"}',
                        }
                    }
                ],
            }
        ]
    }
    assert make.is_held_out(record, lambda text: False)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_fit_their_declarations_and_are_counted(kind):
    for record in _drawn(kind, 300):
        declared = {s["function"]["name"]: s["function"]["parameters"] for s in record["tools"]}
        numbers = []
        for message in record["messages"]:
            for call in message.get("tool_calls", ()):
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                assert check_arguments(declared[name], json.loads(arguments)) is None
                assert arguments == json.dumps(json.loads(arguments), ensure_ascii=False)
                assert call["id"].startswith(f"functions.{name}:")
                numbers.append(int(call["id"].rpartition(":")[2]))
        assert numbers == list(range(len(numbers)))


def test_results_are_the_tools_own():
    for name, arguments, result in (c for r in _drawn("mixed", 300) for c in _calls(r)):
        if name != "clock":
            assert BUILTIN[name].run(arguments) == result


def test_results_are_in_the_answer():
    """Except for errors; the time without its date is enough for the clock."""
    for record in _drawn("calculator", 300) + _drawn("units", 300) + _drawn("clock", 300):
        name, _, result = _calls(record)[-1]
        said = record["messages"][-1]["content"]
        if result.startswith("Error"):
            continue
        if name == "clock":
            time, date = result.split()[0], result.split(" on ")[1].split(" in ")[0]
            assert time in said or date in said
        else:
            assert result in said


def test_copied_values_stand_in_the_question():
    for record in _drawn("units", 400):
        question = next(m["content"] for m in record["messages"] if m["role"] == "user")
        for _, arguments, _ in _calls(record):
            assert arguments["from_unit"] in question
            assert arguments["to_unit"] in question
    for record in _drawn("clock", 400):
        asked = " ".join(m["content"] for m in record["messages"] if m["role"] == "user")
        assert all(arguments["place"] in asked for _, arguments, _ in _calls(record))


def test_an_expression_is_written_one_way():
    number = r"\(*-?\d+(\.\d+)?\)*"
    form = re.compile(rf"{number}( (\*\*|[-+*/%]) {number})*")
    rng = Random(3)
    for _ in range(2000):
        total = arithmetic.draw_sum(rng)
        assert form.fullmatch(total.expression), total
        assert "{" not in total.question


def test_operand_lengths_are_spread_evenly():
    rng = Random(5)
    counts = [0] * 8
    for _ in range(7000):
        counts[len(str(arithmetic.number(rng)))] += 1
    assert counts[0] == 0
    assert min(counts[1:]) > 850


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (14, "fourteen"),
        (40, "forty"),
        (73, "seventy-three"),
        (305, "three hundred and five"),
    ],
)
def test_number_words(value, words):
    assert arithmetic.in_words(value) == words


def test_the_toolbox_clock_stands_still():
    box = Toolbox(Random(1))
    assert box.run("clock", place="UTC").result == box.run("clock", place="UTC").result
    assert (
        builtin_tools(lambda: datetime(2026, 11, 22, 5, 5, tzinfo=UTC))["clock"]
        .run({"place": "Tokyo"})
        .startswith("14:05 on Sunday 22 November 2026 in Tokyo")
    )

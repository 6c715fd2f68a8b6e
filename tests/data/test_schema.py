"""Conversations on disk: what is accepted, and what is said about what is not."""

import json

import pytest

from k2mlx.data.schema import (
    Conversation,
    Problem,
    parse_conversation,
    read_conversations,
    write_conversations,
)
from k2mlx.errors import ConfigError


def tool(name="add"):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def call(name="add", arguments="{}", call_id="functions.add:0"):
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def row(*messages, tools=None):
    return {"id": "x", "messages": list(messages), "tools": tools or []}


USER = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello."}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call()]}
RESULT = {"role": "tool", "tool_call_id": "functions.add:0", "content": "3"}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "c.jsonl"
    conversations = [
        Conversation("a", [USER, HELLO]),
        Conversation("b", [USER, CALLS, RESULT, HELLO], [tool()]),
        Conversation("ü\u2028", [USER, {"role": "assistant", "content": "“\n”"}]),
    ]
    assert write_conversations(path, conversations) == 3
    assert list(read_conversations(path)) == conversations


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "the line: expected an object"),
        ({"id": "x", "messages": [USER, HELLO], "extra": 1}, "no keys but"),
        ({"id": 3, "messages": [USER, HELLO]}, "id: expected a string, got 3"),
        (row(), "messages: expected a list of messages"),
        (row(USER), "an assistant message to learn from"),
        (row({"role": "robot", "content": ""}), r"messages\[0\].role: expected one of system"),
        (row(USER, {"role": "assistant", "content": None}), r"messages\[1\].content"),
        (row({"role": "user", "content": "", "tool_calls": [call()]}), "none from a user"),
        (row(USER, CALLS), r"tool_calls\[0\].function.name: expected a declared tool"),
        (row(USER, CALLS, HELLO, tools=[tool()]), r"messages\[2\]: expected a tool message"),
        (row(USER, RESULT, HELLO), r"messages\[1\].tool_call_id"),
        (row(USER, HELLO, tools=[tool(), tool()]), "every name once"),
        (row(USER, HELLO, tools=[{}]), r"tools\[0\].function.name"),
        (
            row(USER, {**CALLS, "tool_calls": [call(arguments="[1]")]}, tools=[tool()]),
            "expected a JSON object",
        ),
        (
            row(USER, {**CALLS, "tool_calls": [call(arguments="{")]}, tools=[tool()]),
            "expected a JSON object",
        ),
        (
            row(USER, {**CALLS, "tool_calls": [call(arguments={})]}, tools=[tool()]),
            "expected JSON text",
        ),
        (row(USER, {**CALLS, "tool_calls": ["add"]}, tools=[tool()]), r"tool_calls\[0\]: expected"),
    ],
)
def test_problems_name_their_place(bad, message):
    with pytest.raises(Problem, match=message):
        parse_conversation(bad)


def test_calls_may_be_last_and_parallel_results_in_any_order():
    two = {**CALLS, "tool_calls": [call(), call(call_id="functions.add:1")]}
    second = {**RESULT, "tool_call_id": "functions.add:1"}
    parse_conversation(row(USER, CALLS, tools=[tool()]))
    parse_conversation(row(USER, two, second, RESULT, HELLO, tools=[tool()]))


def test_errors_in_a_file_have_a_line_number(tmp_path):
    path = tmp_path / "c.jsonl"
    good = json.dumps(row(USER, HELLO))
    path.write_text(f"{good}\n\n{json.dumps(row(USER))}\n")
    with pytest.raises(ConfigError, match=r"c\.jsonl:3: messages"):
        list(read_conversations(path))
    path.write_text(f"{good}\nnot json\n")
    with pytest.raises(ConfigError, match=r"c\.jsonl:2: not JSON"):
        list(read_conversations(path))
    with pytest.raises(ConfigError, match="no such source file"):
        list(read_conversations(tmp_path / "none.jsonl"))

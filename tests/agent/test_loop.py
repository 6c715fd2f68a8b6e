"""The agent loop with a scripted model: rounds, errors as results, cancelling, breakers."""

import json

import pytest

from k2mlx.agent.loop import ToolResult, run_turn
from k2mlx.agent.tools import BUILTIN, Tool, function_spec
from k2mlx.chat import CallEnd, End, Text, check_messages, parse_text
from k2mlx.errors import RequestError


class Script:
    """A stream function that plays one output after another and keeps what it was asked."""

    def __init__(self, *outputs):
        self.outputs = list(outputs)
        self.asked = []
        self.streams = []

    def __call__(self, engine, messages, tools, sampling, thinking, on_progress):
        check_messages(messages)
        self.asked.append(json.loads(json.dumps(messages)))
        output = self.outputs.pop(0)
        if isinstance(output, Exception):
            raise output
        self.streams.append(ScriptedStream(output, len(self.streams)))
        return self.streams[-1]


class ScriptedStream:
    runs = ((7, 8),)

    def __init__(self, output, number):
        self.events = parse_text(output, reasoning="none", first_call=number)
        self.stats = f"stats {number}"
        self.cancelled = False

    def cancel(self):
        self.cancelled = True

    def __iter__(self):
        for event in self.events:
            if self.cancelled:
                yield End("cancelled")
                return
            yield event


def call(*calls):
    made = "".join(
        f"<|tool_call_begin|>{name}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
        for name, arguments in calls
    )
    return f"<|tool_calls_section_begin|>{made}<|tool_calls_section_end|><|im_end|>"


def product(a, b):
    return "functions.calculator:0", json.dumps({"expression": f"{a} * {b}"})


def play(*outputs, tools=BUILTIN, **options):
    script = Script(*outputs)
    messages = [{"role": "user", "content": "What is 6 * 7?"}]
    turn = run_turn(None, messages, tools, None, stream=script, **options)
    return list(turn), messages, script, turn


def kinds(events):
    return [event.type for event in events]


def results(events):
    return [event.content for event in events if isinstance(event, ToolResult)]


def test_a_turn_without_calls():
    events, messages, _, turn = play("Hello!<|im_end|>")
    assert events == [Text("Hello!"), End("stop")]
    assert messages[1:] == [{"role": "assistant", "content": "Hello!"}]
    assert turn.rounds == 1


def test_a_call_its_result_and_the_answer():
    events, messages, script, turn = play(call(product(6, 7)), "It is 42.<|im_end|>")
    made = ["call_begin", "argument_delta", "call_end", "tool_result"]
    assert kinds(events) == [*made, "text", "end"]
    assert events[3] == ToolResult(0, "functions.calculator:0", "calculator", "42")
    assert events[-1] == End("stop")
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2] == {
        "role": "tool",
        "tool_call_id": "functions.calculator:0",
        "name": "calculator",
        "content": "42",
    }
    assert script.asked[1] == messages[:3]
    assert turn.stats == ["stats 0", "stats 1"]
    assert messages[1].runs == ((7, 8),)
    assert events[3].to_json()["type"] == "tool_result"


def test_parallel_calls_and_rounds_are_numbered_through():
    two = call(product(1, 2), ("functions.clock:1", '{"place": "UTC"}'))
    events, messages, _, _ = play(two, call(product(3, 4)), "Done.<|im_end|>")
    answered = [event for event in events if isinstance(event, ToolResult)]
    assert [(result.index, result.name) for result in answered] == [
        (0, "calculator"),
        (1, "clock"),
        (2, "calculator"),
    ]
    assert [event.index for event in events if isinstance(event, CallEnd)] == [0, 1, 2]
    assert kinds(events).count("end") == 1
    assert len(messages) == 7


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("functions.weather:0", "{}"), "unknown tool 'weather'"),
        (("functions.calculator:0", '{"expression": '), "not JSON"),
        (("functions.calculator:0", "[1]"), "wanted an object"),
        (("functions.calculator:0", '{"expression": "1/0"}'), "division by zero"),
    ],
)
def test_problems_go_back_to_the_model(made, message):
    events, messages, _, _ = play(call(made), "Sorry.<|im_end|>")
    assert message in results(events)[0]
    assert results(events)[0].startswith("Error: ")
    assert messages[-1] == {"role": "assistant", "content": "Sorry."}


def test_a_call_without_a_name_has_no_result():
    events, messages, _, _ = play(call(("functions.:0", "{}")))
    assert results(events) == []
    assert "tool_calls" not in messages[-1]
    assert events[-1] == End("stop")


def test_cut_off_within_a_call():
    cut = call(product(6, 7)).partition('"}')[0]
    events, messages, _, turn = play(cut)
    assert events[-1] == End("length")
    assert "cut off" in results(events)[0]
    assert messages[-1]["role"] == "tool"
    assert turn.rounds == 1


def test_stops_after_max_rounds():
    outputs = [call(product(number, 2)) for number in range(5)]
    events, messages, script, turn = play(*outputs, max_rounds=3)
    assert turn.rounds == 3
    assert events[-1] == End("tool_calls")
    assert messages[-1]["role"] == "tool"
    assert len(script.outputs) == 2


def test_stops_when_the_model_repeats_itself():
    events, _, script, turn = play(*[call(product(6, 7))] * 8)
    assert turn.rounds == 3
    assert results(events)[:2] == ["42", "42"]
    assert results(events)[2].startswith("Error: this call was made before")
    assert events[-1] == End("tool_calls")
    assert len(script.outputs) == 5


def test_a_repeated_call_beside_a_new_one_goes_on():
    outputs = [call(product(6, 7), product(6, number)) for number in range(4)]
    events, _, _, turn = play(*outputs, "Fine.<|im_end|>")
    assert turn.rounds == 5
    assert events[-1] == End("stop")


def test_cancel_while_the_model_writes():
    script = Script("One two three<|im_end|>")
    messages = [{"role": "user", "content": "Count."}]
    turn = run_turn(None, messages, BUILTIN, None, stream=script)
    assert next(turn) == Text("One two three")
    turn.cancel()
    assert list(turn) == [End("cancelled")]
    assert messages[-1] == {"role": "assistant", "content": "One two three"}


def test_cancel_within_a_call_leaves_a_conversation_that_can_go_on():
    script = Script(call(product(6, 7)))
    messages = [{"role": "user", "content": "What is 6 * 7?"}]
    turn = run_turn(None, messages, BUILTIN, None, stream=script)
    for event in turn:
        if isinstance(event, CallEnd):
            turn.cancel()
            break
    rest = list(turn)
    assert results(rest) == ["Error: cancelled by the user"]
    assert rest[-1] == End("cancelled")
    assert messages[-1]["tool_call_id"] == messages[-2]["tool_calls"][0]["id"]


def test_cancel_while_a_tool_runs():
    turns = []

    def slow(_):
        turns[0].cancel()
        return "done"

    tools = {"slow": Tool("slow", function_spec("slow", "Takes its time.", {}), slow)}
    script = Script(call(("functions.slow:0", "{}")), "Never said.<|im_end|>")
    messages = [{"role": "user", "content": "Go."}]
    turns.append(run_turn(None, messages, tools, None, stream=script))
    events = list(turns[0])
    assert results(events) == ["done"]
    assert events[-1] == End("cancelled")
    assert len(script.outputs) == 1


def test_cancel_before_the_start():
    turn = run_turn(None, [], BUILTIN, None, stream=Script())
    turn.cancel()
    assert list(turn) == [End("cancelled")]
    assert turn.rounds == 0


def test_leaving_the_loop_stops_the_model():
    script = Script("Some text<|im_end|>")
    turn = run_turn(None, [{"role": "user", "content": "Hi"}], BUILTIN, None, stream=script)
    for _ in turn:
        break
    turn.close()
    assert script.streams[0].cancelled


def test_a_conversation_that_outgrows_the_context_keeps_its_rounds():
    script = Script(call(product(6, 7)), RequestError("prompt has 3000 tokens"))
    messages = [{"role": "user", "content": "What is 6 * 7?"}]
    turn = run_turn(None, messages, BUILTIN, None, stream=script)
    with pytest.raises(RequestError, match="3000"):
        list(turn)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]

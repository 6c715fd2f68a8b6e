"""Conversations through the engine: events, message, stats, cancel; the public functions."""

import asyncio
import threading

import pytest

import k2mlx
from k2mlx.chat import CallEnd, End, Text, render_ids
from k2mlx.errors import RequestError
from k2mlx.generate import Sampling, answer, stream_answer, stream_chat
from k2mlx.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
MARK = TOKENIZER.special
USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
HELLO = [*TOKENIZER.encode("Hé!"), MARK["<|im_end|>"]]
CALL = [
    *TOKENIZER.encode("Wait."),
    MARK["<|tool_calls_section_begin|>"],
    MARK["<|tool_call_begin|>"],
    *TOKENIZER.encode("functions.clock:0"),
    MARK["<|tool_call_argument_begin|>"],
    *TOKENIZER.encode('{"place": "Rome"}'),
    MARK["<|tool_call_end|>"],
    MARK["<|tool_calls_section_end|>"],
    MARK["<|im_end|>"],
]


def test_the_answer_streams_as_events(make_engine, scripted):
    turn = stream_chat(make_engine(scripted(script=HELLO)), USER)
    events = list(turn)
    assert "".join(event.text for event in events[:-1]) == "Hé!"
    assert events[-1] == End("stop")
    assert turn.message == {"role": "assistant", "content": "Hé!"}
    wanted = render_ids(USER, None, TOKENIZER, format="k2-nano")
    assert turn.stats.prompt_tokens == len(wanted)
    assert turn.stats.completion_tokens == len(HELLO) - 1
    assert list(turn) == []


def test_calls_become_events_and_a_message(make_engine, scripted, config):
    roomy = config(max_position_embeddings=4096)
    turn = stream_chat(make_engine(scripted(script=CALL), roomy), USER, [TOOL])
    events = list(turn)
    assert events[-1] == End("tool_calls")
    ended = next(event for event in events if isinstance(event, CallEnd))
    assert (ended.id, ended.name, ended.error) == ("functions.clock:0", "clock", None)
    assert turn.message["content"] == "Wait."
    assert turn.message["tool_calls"][0]["function"]["arguments"] == '{"place": "Rome"}'


def test_made_up_call_ids_go_on_from_the_conversation(make_engine, scripted, config):
    call = {
        "id": "functions.clock:0",
        "type": "function",
        "function": {"name": "clock", "arguments": "{}"},
    }
    messages = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.clock:0", "content": "12:00"},
    ]
    start = TOKENIZER.encode("functions.clock:0")
    script = CALL[: CALL.index(start[0], 6)] + TOKENIZER.encode("clock") + CALL[-21:]
    engine = make_engine(scripted(script=script), config(max_position_embeddings=4096))
    ended = [e for e in stream_chat(engine, messages, [TOOL]) if isinstance(e, CallEnd)]
    assert [e.id for e in ended] == ["functions.clock:1"]


def test_the_length_limit_is_the_finish_reason(make_engine, scripted):
    turn = stream_chat(make_engine(scripted(script=[70])), USER, None, Sampling(max_tokens=3))
    assert list(turn)[-1] == End("length")


def test_cancel_ends_the_events(make_engine, scripted, config):
    permits = threading.Semaphore(8)
    engine = make_engine(scripted(script=[70], permits=permits))
    turn = stream_chat(engine, USER)
    assert next(turn) == Text("5")
    turn.cancel()
    permits.release(3)
    events = list(turn)
    assert events[-1] == End("cancelled")
    assert turn.stats.finish_reason == "cancelled"
    assert turn.message["content"] == "5" * len(events)


def test_events_come_to_an_event_loop_too(make_engine, scripted):
    engine = make_engine(scripted(script=HELLO))

    async def collect():
        return [event async for event in stream_chat(engine, USER)]

    events = asyncio.run(collect())
    assert events[-1] == End("stop")
    assert "".join(event.text for event in events[:-1]) == "Hé!"


def test_engine_errors_reach_the_reader(make_engine, scripted):
    with pytest.raises(RuntimeError, match="device failed"):
        list(stream_chat(make_engine(scripted(fail_at=1)), USER))


def test_malformed_messages_are_refused(make_engine):
    with pytest.raises(RequestError):
        stream_chat(make_engine(), ["Hi"])


def test_the_next_turn_reuses_the_last_ones_cache(make_engine, scripted):
    engine = make_engine(scripted(script=HELLO))
    first = stream_chat(engine, USER)
    list(first)
    turn = stream_chat(engine, [*USER, first.message, {"role": "user", "content": "Go on"}])
    list(turn)
    assert turn.stats.cached_tokens == first.stats.prompt_tokens + len(HELLO)


def test_the_public_functions(make_engine, scripted):
    engine = make_engine(scripted(script=HELLO))
    assert k2mlx.answer is answer
    assert k2mlx.stream_answer is stream_answer
    assert answer(engine, "Hi", temperature=0) == "Hé!"
    assert list(stream_answer(engine, "Hi", system="Be kind.")) == ["H", "é", "!"]
    with pytest.raises(RequestError, match="temperature"):
        stream_answer(engine, "Hi", temperature=-1)

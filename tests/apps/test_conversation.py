"""Conversations with the scripted model: what the model is told, stopping, a full context."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.chat.answer import Call, Passage
from apps.chat.conversation import Conversation, first_kept
from k2mlx.agent.tools import BUILTIN
from k2mlx.generate import Sampling
from tests.apps.scripted import ScriptedEngine


def ask(talk, question, tools=BUILTIN, on_update=None, **sampling):
    """Ask and wait for the end. Returns (the answer, what finish returned)."""

    async def follow():
        live = talk.ask(question, tools, Sampling(**sampling))
        async with aclosing(live.watch()) as growing:
            async for _ in growing:
                if on_update:
                    on_update(live)
        return live.answer, talk.finish()

    return asyncio.run(follow())


def said(answer):
    return "".join(part.text for part in answer.parts if isinstance(part, Passage))


def test_a_product_is_calculated_by_the_tool():
    talk = Conversation(ScriptedEngine())
    answer, taken_back = ask(talk, "What is 1234 * 5678?")
    call, text = answer.parts
    assert call == Call("calculator", '{"expression": "1234 * 5678"}', "7006652")
    assert "7006652" in text.text
    assert (answer.finish_reason, answer.error, taken_back) == ("stop", None, None)
    roles = [message["role"] for message in talk.exchanges[0].messages]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_what_it_cost_is_counted_over_the_rounds():
    talk = Conversation(ScriptedEngine(delay=0.001))
    answer, _ = ask(talk, "What is 12 * 34?")
    stats = answer.cost
    assert stats.tokens > len("The result is 408.")
    assert 0 < stats.speed < 1000
    assert stats.prompt_speed > 0
    last = len(talk._engine.tokenizer.encode(said(answer)))
    assert stats.context >= len(talk._engine.prompts[-1].encode()) // 2 + last


def test_the_next_turn_sees_the_turns_before():
    talk = Conversation(ScriptedEngine())
    ask(talk, "What is 12 * 34?")
    ask(talk, "Hi!")
    prompt = talk._engine.prompts[-1]
    assert "What is 12 * 34?" in prompt
    assert "The result is 408." in prompt
    assert prompt.index("408") < prompt.index("Hi!")


def test_tools_that_are_off_are_not_declared():
    talk = Conversation(ScriptedEngine())
    clock = {"clock": BUILTIN["clock"]}
    answer, _ = ask(talk, "What is 12 * 34?", clock)
    assert said(answer) == "I have no calculator."
    assert '"clock"' in talk._engine.prompts[0]
    assert '"calculator"' not in talk._engine.prompts[0]
    ask(talk, "Hi!", {})
    assert "tool_declare" not in talk._engine.prompts[-1]


def test_a_failed_call_is_an_answer():
    answer, _ = ask(Conversation(ScriptedEngine()), "What time is it?")
    clock, unknown, _ = answer.parts
    assert "Tokyo" in clock.result and not clock.failed
    assert unknown.failed and "no_such_tool" in unknown.result


def test_stop_ends_the_model_and_keeps_what_it_wrote():
    engine = ScriptedEngine(delay=0.002)
    talk = Conversation(engine)

    def stop_at_ten(live):
        if "10 sheep" in said(live.answer):
            talk.stop()

    answer, taken_back = ask(talk, "a long story", on_update=stop_at_ten)
    assert answer.finish_reason == "cancelled"
    assert engine.cancelled == 1
    assert taken_back is None
    assert "10 sheep" in said(answer) and "399 sheep" not in said(answer)
    assert talk.exchanges[0].messages[1]["content"] == said(answer)


def test_an_answer_stopped_before_its_first_word_is_not_told_to_the_model():
    engine = ScriptedEngine(delay=0.02)
    talk = Conversation(engine)
    answer, taken_back = ask(talk, "long " * 700, on_update=lambda live: live.cancel())
    assert (answer.parts, answer.finish_reason, taken_back) == ([], "cancelled", None)
    ask(talk, "Hi!")
    assert "long" not in engine.prompts[-1]
    assert len(talk.exchanges) == 2


def test_the_limit_on_tokens_is_kept():
    answer, _ = ask(Conversation(ScriptedEngine()), "a long story", max_tokens=20)
    assert answer.finish_reason == "length"
    assert answer.cost.tokens == 20


def test_a_prompt_that_does_not_fit_is_given_back():
    talk = Conversation(ScriptedEngine(context=1500))
    ask(talk, "Hi!", {}, max_tokens=20)
    answer, taken_back = ask(talk, "word " * 400, {}, max_tokens=20)
    assert "shorten it" in answer.error
    assert taken_back == "word " * 400
    assert len(talk.exchanges) == 1
    assert talk.dropped == 0
    ask(talk, "Hello!", {})
    assert "Hi!" in talk._engine.prompts[-1]


def test_a_bug_is_shown_and_the_conversation_goes_on(capsys):
    talk = Conversation(ScriptedEngine())
    answer, taken_back = ask(talk, "crash")
    assert "the script crashed" in answer.error
    assert taken_back == "crash"
    assert "RuntimeError" in capsys.readouterr().err
    answer, _ = ask(talk, "Hi!")
    assert answer.error is None


def test_the_oldest_turns_leave_a_full_context():
    talk = Conversation(ScriptedEngine(context=600))
    for i in range(12):
        ask(talk, f"echo {i} " + "word " * 12, {}, max_tokens=100)
    assert 0 < talk.dropped < 11
    assert len(talk.exchanges) == 12
    prompt = talk._engine.prompts[-1]
    assert f"echo {talk.dropped} " in prompt
    assert f"echo {talk.dropped - 1} " not in prompt


texts = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=3), min_size=1, max_size=8)


@given(texts, st.integers(0, 120), st.data())
def test_as_many_of_the_newest_turns_are_kept_as_fit(sizes, room, data):
    turns = [[{"size": size} for size in turn] for turn in sizes]
    first = data.draw(st.integers(0, len(turns) - 1))

    def count(messages):
        return sum(message["size"] for message in messages)

    kept = first_kept(turns, count, room, first)
    assert first <= kept < len(turns)
    size = sum(map(sum, sizes[kept:]))
    assert size <= room or kept == len(turns) - 1
    if kept > first:
        assert sum(map(sum, sizes[kept - 1 :])) > room


def test_one_answer_at_a_time():
    talk = Conversation(ScriptedEngine())
    talk.ask("Hi!", {}, Sampling())
    with pytest.raises(AssertionError):
        talk.ask("Hi!", {}, Sampling())

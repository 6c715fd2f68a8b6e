"""`k2mlx eval chat`: lines by seed, and transcripts that hide nothing."""

import pytest

from k2mlx.chat import End, parse_text
from k2mlx.errors import RequestError
from k2mlx.eval.chat import TURNS, talk, transcript, user_lines
from k2mlx.eval.openings import TOPICS

OPENINGS = [opening for topic in TOPICS for opening in topic.openings]
CALL = (
    "Hm. <|tool_calls_section_begin|><|tool_call_begin|>functions.clock:0"
    '<|tool_call_argument_begin|>{"place": "UTC"}<|tool_call_end|><|tool_calls_section_end|>'
)


def says(*outputs):
    """A model that gives these outputs in turn, and the prompts that it was asked with."""
    prompts = []

    def ask(messages, number):
        prompts.append((number, messages))
        output = outputs[number % len(outputs)]
        *events, end = parse_text(output, reasoning="none")
        return [*events, end if output.endswith("<|im_end|>") else End("length")]

    return ask, prompts


def test_lines_depend_on_the_seed_alone():
    assert user_lines(1, 20) == user_lines(1, 20)
    assert user_lines(1, 20)[:7] == user_lines(1, 7)
    assert user_lines(1, 20) != user_lines(2, 20)


def test_every_opening_comes_once_before_any_comes_again():
    chats = user_lines(3, len(OPENINGS) + 5)
    assert sorted(chat[0] for chat in chats[: len(OPENINGS)]) == sorted(OPENINGS)
    assert len(chats) == len(OPENINGS) + 5


def test_a_chat_stays_with_its_topic():
    for chat in user_lines(0, len(OPENINGS)):
        assert len(set(chat)) == TURNS
        (topic,) = [topic for topic in TOPICS if chat[0] in topic.openings]
        assert set(chat[1:]) <= set(topic.follow_ups)


def test_lines_need_no_tool():
    lines = [line for topic in TOPICS for line in (*topic.openings, *topic.follow_ups)]
    assert len(set(lines)) == len(lines)
    assert not any(character.isdigit() for line in lines for character in line)


def test_the_model_sees_what_was_said():
    ask, prompts = says("One.<|im_end|>", "Two.<|im_end|>", "Three.<|im_end|>")
    seen = []
    chats = talk(1, 2, ask, seen.append)
    assert seen == chats
    assert [number for number, _ in prompts] == list(range(2 * TURNS))
    messages = prompts[2][1]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [message["content"] for message in messages[1::2]] == ["One.", "Two."]
    assert all(set(message) == {"role", "content"} for message in messages)
    assert [message["content"] for message in chats[0][::2]] == user_lines(1, 1)[0]
    assert chats[1][-1] == {"role": "assistant", "content": "Three.", "finish_reason": "stop"}


def test_nothing_is_hidden():
    ask, _ = says("One\nmore.<|im_end|>", CALL + "<|im_end|>", "cut")
    (chat,) = talk(1, 1, ask)
    shown = transcript([chat]).splitlines()
    assert shown[0] == "1."
    assert shown[2:4] == ["k2mlx:  One", "        more."]
    assert shown[5] == 'k2mlx:  Hm. [calls clock({"place": "UTC"})]'
    assert shown[7] == "k2mlx:  cut [cut off]"


def test_a_chat_that_outgrows_the_context():
    def ask(messages, number):
        raise RequestError("too long")

    (chat,) = talk(1, 1, ask)
    assert chat[1] == {"role": "assistant", "content": "", "finish_reason": "context"}
    assert transcript([chat]).count("[cut off]") == TURNS


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_have_enough_to_say(topic):
    assert len(topic.openings) >= 5
    assert len(topic.follow_ups) >= TURNS

"""A message that was sampled here is rendered in its own tokens, and says the same as without."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.chat import (
    StreamParser,
    assistant_message,
    pieces_to_text,
    reasoning_mode,
    render,
    render_ids,
    split_runs,
)
from k2mlx.chat.render import Plain, pieces_to_ids
from tests.splits import SplitTokenizer, random_split
from tests.streams import user

TOKENIZER = SplitTokenizer()
MARK = TOKENIZER.special
texts = st.text('abé{}"1 \n', min_size=1, max_size=12)
turns = st.tuples(texts, texts, st.lists(texts, max_size=3), st.integers(0, 10**6))


def written(format, thought, content, calls, seed):
    """The tokens of a turn as a model might sample them, after the prompt of that format."""
    random = Random(seed)

    def tokens(text):
        return random_split(text, TOKENIZER, random)

    ids = {
        "k2-nano": [],
        "kimi-k2-thinking": [MARK["<think>"], *tokens(thought), MARK["</think>"]],
        "kimi-k2.5": [*tokens(thought), MARK["</think>"]],
    }[format]
    ids = [*ids, *tokens(content)]
    if calls:
        ids.append(MARK["<|tool_calls_section_begin|>"])
        for index, text in enumerate(calls):
            ids += [MARK["<|tool_call_begin|>"], *tokens(f"functions.echo:{index}")]
            arguments = json.dumps({"text": text}, ensure_ascii=False)
            ids += [MARK["<|tool_call_argument_begin|>"], *tokens(arguments)]
            ids.append(MARK["<|tool_call_end|>"])
        ids.append(MARK["<|tool_calls_section_end|>"])
    return ids


def message_of(ids, format):
    parser = StreamParser(TOKENIZER, reasoning=reasoning_mode(format))
    events = [event for token in ids for event in parser.push(token)] + parser.finish("stop")
    return assistant_message(events, split_runs(ids, TOKENIZER))


@given(st.sampled_from(["k2-nano", "kimi-k2-thinking", "kimi-k2.5"]), turns)
def test_the_next_prompt_begins_with_what_was_sampled(format, turn):
    thought, content, calls, seed = turn
    before = render_ids([user("q")], None, TOKENIZER, format=format)
    ids = written(format, thought, content, [*calls, "again", "again"], seed)
    message = message_of(ids, format)
    after = render_ids([user("q"), message], None, TOKENIZER, format=format)
    assert after[: len(before) + len(ids) + 1] == [*before, *ids, MARK["<|im_end|>"]]


@given(st.sampled_from(["k2-nano", "kimi-k2-thinking", "kimi-k2.5"]), turns, st.data())
def test_an_edited_message_is_what_it_says_now(format, turn, data):
    message = message_of(written(format, *turn), format)
    plain = json.loads(json.dumps(message))
    assert message == plain
    key = data.draw(st.sampled_from(["content", "reasoning_content"]))
    message[key] = plain[key] = data.draw(texts)
    for thinking in (None, False):
        options = {"format": format, "thinking": thinking}
        pieces = render([user("q"), message], None, **options)
        assert pieces_to_text(pieces) == pieces_to_text(render([user("q"), plain], **options))
        assert TOKENIZER.decode(pieces_to_ids(pieces, TOKENIZER)) == pieces_to_text(pieces)


def test_another_split_is_not_what_the_tokenizer_gives():
    """So the tests above would see it if the sampled tokens were not used."""
    ids = written("k2-nano", "t", "ab ab ab", [], 1)
    message = message_of(ids, "k2-nano")
    sampled = render_ids([user("q"), message], None, TOKENIZER, format="k2-nano")
    canonical = render_ids([user("q"), dict(message)], None, TOKENIZER, format="k2-nano")
    assert sampled != canonical
    assert TOKENIZER.decode(sampled) == TOKENIZER.decode(canonical)


@pytest.mark.parametrize(
    "run",
    [
        (MARK["<|im_end|>"], *TOKENIZER.encode("ab")),  # a marker spells nothing
        tuple(TOKENIZER.encode("é"))[:1] if len(TOKENIZER.encode("é")) > 1 else (17 + 0xC3,),
        (10**6,),
        (),
        (-1, 5),
        tuple(TOKENIZER.encode("abc")),
    ],
)
def test_runs_that_spell_something_else_are_not_used(run):
    for text in ("ab", "\ufffd"):
        piece = Plain(text, (run,))
        assert pieces_to_ids([piece], TOKENIZER) == TOKENIZER.encode(text)

"""The page's HTML: nothing that anybody writes becomes a tag, and cards say what happened."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.chat import view
from apps.chat.answer import Answer, Call, Cost, Passage
from apps.chat.conversation import Conversation, Exchange
from k2mlx.generate import EngineInfo
from tests.apps.scripted import ScriptedEngine

EVIL = "<img src=x onerror=alert(1)> & <b>\"2*3*4\"</b> 'x' </div></details>"
evil = st.one_of(st.just(EVIL), st.text("<>&\"'=/ab \n", max_size=40))


class Reader(HTMLParser):
    """The text, the tags and the attributes of a piece of HTML."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.tags, self.attributes = "", [], set(), set()
        self.feed(html)
        self.close()
        assert not self.open, "a tag is not closed"

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


OURS = {"div", "span", "b", "i", "dl", "dt", "dd", "h1", "p", "details", "summary"}


def read(html):
    reader = Reader(html)
    assert reader.tags <= OURS
    assert reader.attributes <= {"class", "style", "role", "open", "title"}
    return reader.text


@given(evil, evil, evil, evil)
def test_what_anybody_writes_stays_text(question, text, name, result):
    arguments = f'{{"a": {view.json.dumps(text)}}}'
    answer = Answer(
        parts=[
            Passage("reasoning", text),
            Call(name, arguments, result),
            Call(name, text),
            Passage("text", text),
        ],
        error=result,
        done=True,
    )
    shown = read(view.answer_html(answer))
    assert name in shown
    assert result in shown
    assert shown.count(text) >= 2
    assert read(view.question_html(Exchange(question, answer))) == question
    assert read(view.problem_html(text)) == text


def test_the_text_is_shown_as_it_was_written():
    text = "2*3*4 = 24\n\n# not a heading\n  $x$ `y` _z_"
    assert text in read(view.answer_html(Answer([Passage("text", text)], done=True)))


@pytest.mark.parametrize(
    ("call", "state", "rows"),
    [
        (
            Call("calculator", '{"expression": "6 * 7"}', "42"),
            "done",
            ["Calculator", "6 * 7", "42"],
        ),
        (Call("convert_units", '{"value": 2.5, "to_unit": "km"}'), "running", ["2.5", "km"]),
        (Call("clock", '{"place": "To'), "running", ["Clock", '{"place": "To']),
        (Call("clock", "[1]", "Error: no"), "failed", ["[1]", "Error: no"]),
        (Call("", "", "Error: the call has no name"), "failed", ["unnamed tool"]),
        (Call("other", '{"list": ["é", 1]}', ""), "done", ['["é", 1]']),
    ],
)
def test_a_card_says_what_was_called_and_what_came_of_it(call, state, rows):
    shown = read(view.card_html(call))
    assert state in shown
    for row in rows:
        assert row in shown


def test_what_is_going_on_is_said_while_it_goes_on():
    assert "reading the prompt" in read(view.answer_html(Answer()))
    assert "512 of 2,000" in read(view.answer_html(Answer(reading=(512, 2000))))
    writing = Answer([Passage("text", "Hi")], cost=Cost(tokens=12, speed=34.4))
    assert "12 tokens · 34 tokens/s" in read(view.answer_html(writing))


def test_what_it_cost_is_said_at_the_end():
    cost = Cost(context=400, tokens=12, speed=34.4, prompt_tokens=1234, prompt_speed=5678.9)
    shown = read(view.answer_html(Answer(finish_reason="stop", cost=cost, done=True)))
    assert shown == "12 tokens · 34 tokens/s · prompt 1,234 tokens at 5,679/s"
    cost = replace(cost, cached=4321)
    shown = read(view.answer_html(Answer(finish_reason="stop", cost=cost, done=True)))
    assert "at 5,679/s · 4,321 kept from before" in shown
    cost = replace(cost, from_disk=4096)
    shown = read(view.answer_html(Answer(finish_reason="stop", cost=cost, done=True)))
    assert "4,321 kept from before (4,096 on disk)" in shown
    shown = read(view.answer_html(Answer(finish_reason="cancelled", cost=cost, done=True)))
    assert shown.startswith("stopped · ")
    shown = read(view.answer_html(Answer(finish_reason="length", done=True)))
    assert shown == "cut off at the token limit"


def test_the_header_says_what_the_model_is():
    shown = read(view.header_html(EngineInfo("k2-nano", 52_100_000, 31_400_000, 2048, "cpu")))
    for fact in ("k2-nano", "52.1 M parameters", "31.4 MB", "2,048 tokens", "CPU", "31 MB model"):
        assert fact in shown
    assert "simple English" in shown
    shown = read(view.header_html(EngineInfo("<k2>", 1_026_000_000_000, 594 * 10**9, 1, "gpu")))
    assert "<k2>" in shown
    assert "1.03 T parameters" in shown
    assert "594 GB" in shown
    assert "simple English" not in shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(942, "", "942"), (999_999, "", "1 M"), (52_100_000, "", "52.1 M"), (5e9, "B", "5 GB")],
)
def test_counts(value, unit, shown):
    assert view.count(value, unit) == shown


def test_the_page_says_where_the_model_has_forgotten():
    talk = Conversation(ScriptedEngine())
    done = Answer([Passage("text", "Yes.")], done=True)
    talk.exchanges = [Exchange(f"question {i}", done) for i in range(3)]
    assert len(view.history(talk, live=False)) == 6
    assert len(view.history(talk, live=True)) == 5
    talk.dropped = 1
    told = [read(message["content"]) for message in view.history(talk, live=False)]
    assert "no longer sees what is above" in told[2]
    assert (told[1], told[3]) == ("Yes.", "question 1")


def test_the_context_meter_stays_in_its_bounds():
    assert "width:100%" in view.context_html(3000, 2048)
    assert "1,024 of 2,048" in read(view.context_html(1024, 2048))

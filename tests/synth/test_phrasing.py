"""The grammar of the phrase tables, and that every table uses only what it can fill."""

import re
from random import Random

import pytest

from k2mlx.synth import arithmetic_phrases, words
from k2mlx.synth.chat import Exchange, exchanges
from k2mlx.synth.phrasing import joined, render, sentence, slots, typed


def test_alternatives_slots_and_options():
    seen = {render("[a|b|]{x}< c>", {"x": 1}, Random(i)) for i in range(60)}
    assert seen == {"a1", "b1", "1", "a1 c", "b1 c", "1 c"}


def test_a_drawn_value_stays_in_the_scope():
    scope = {}
    text = render("{n:3..9} and {n}", scope, Random(0))
    assert text == f"{scope['n']} and {scope['n']}"
    assert 3 <= scope["n"] <= 9


def test_two_slots_of_one_list_differ():
    for seed in range(50):
        scope = {}
        render("{city} {city2:city}", scope, Random(seed))
        assert scope["city"] != scope["city2"]


def test_implied_values_write_nothing():
    scope = {}
    assert render("light on{=on:true}", scope, Random(0)) == "light on"
    assert scope == {"on": "true"}


@pytest.mark.parametrize("broken", ["[a|b", "{x", "<a"])
def test_an_unbalanced_template_is_a_bug(broken):
    with pytest.raises((AssertionError, ValueError)):
        render(broken, {"x": 1}, Random(0))


def test_typed_changes_only_the_edges():
    for seed in range(200):
        text = typed("send 5 Euros to iPhone owner Ann?", Random(seed))
        assert "end 5 Euros to iPhone owner Ann" in text


def test_sentence_mends_articles_and_capitals():
    assert sentence("a(n) owl met a(n)  cat. it slept.") == "An owl met a cat. It slept."


def test_joined():
    assert joined(["a", "b"], Random(0)) == "a and b"
    assert joined(["a"], Random(0)) == "a"
    assert re.fullmatch(r"a, in b,? and in c", joined(["a", "b", "c"], Random(0), "in "))


def test_every_word_list_can_be_drawn_in_full():
    for kind, items in words.lists().items():
        for item in items:
            text = render(item, {}, Random(1))
            assert text and "{" not in text and "[" not in text, f"{kind}: {item!r} -> {text!r}"


def _all(found: list[Exchange]) -> list[Exchange]:
    return [x for one in found for x in (one, *_all(one.following))]


def test_every_chat_phrase_can_be_written():
    everything = [x for found in exchanges().values() for x in _all(found)]
    assert sum(len(x.asked) for x in everything) >= 600
    told = {
        "name",
        "home",
        "pet",
        "friend",
        "m",
        "n",
        "food2",
        "dish2",
        "color2",
        "book2",
        "movie2",
    }
    for exchange in everything:
        assert exchange.asked and exchange.answered
        for phrase in exchange.asked + exchange.answered:
            text = render(phrase, dict.fromkeys(told, "X"), Random(2))
            assert text.strip() and not set(text) & set("{}[]<>|"), phrase


def test_calculator_phrases_have_their_operands():
    for table in (arithmetic_phrases.NOUNS, arithmetic_phrases.VERBS, arithmetic_phrases.WHOLE):
        for expression, phrases in table.items():
            for phrase in phrases:
                assert slots(phrase) == slots(expression), phrase
    for question, expression, label in arithmetic_phrases.PROBLEMS:
        assert slots(expression) <= slots(question), question
        assert slots(label) <= slots(question) | {"r"}, question

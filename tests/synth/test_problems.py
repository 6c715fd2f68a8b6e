"""Word problems, and what may stand around a request."""

import re
from random import Random

import pytest

from k2mlx.agent.calculator import calculate
from k2mlx.synth import arithmetic, requests
from k2mlx.synth.phrasing import render, slots
from k2mlx.synth.problems import problems


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem[0][:40])
def test_a_problem_has_a_value_and_says_its_operands(problem):
    question, expression, noun = problem
    rng = Random(question)
    for _ in range(20):
        scope = {"d": "12.50", "d2": "3.75", "d3": "48.99"}
        text = render(question, scope, rng)
        filled = arithmetic._filled(expression, scope)
        assert re.fullmatch(r"-?[\d.]+", calculate(filled))
        assert all(str(scope[slot]) in text for slot in slots(expression))
        render(noun, {**scope, "r": "1"}, rng)


def test_one_story_comes_with_every_operator():
    """The verb must be read, because the nouns tell nothing."""
    with_stuff = [expression for question, expression, _ in problems() if "{stuff}" in question]
    for operator in (" + ", " - ", " * ", " / ", " % ", " ** "):
        assert any(operator in expression for expression in with_stuff), operator
    assert len(with_stuff) > 80


@pytest.mark.parametrize(
    "text", ["Zagreb time?", "Find Moon time?", "12 * 7?", "Is it late in Washington D.C."]
)
def test_words_around_a_request_leave_its_values_alone(text):
    rng = Random(1)
    around = [requests.surrounded(text, rng) for _ in range(2000)]
    value = re.search(r"Zagreb|Find Moon|12 \* 7|Washington D\.C\.", text)[0]
    assert all(value in found for found in around)
    assert 0.15 < sum(found != text for found in around) / len(around) < 0.3


def test_a_request_runs_on_in_lower_case():
    assert requests._after("If you can,", "What is 5 plus 5?") == "If you can, what is 5 plus 5?"
    assert requests._after("Hello.", "What is 5 plus 5?") == "Hello. What is 5 plus 5?"

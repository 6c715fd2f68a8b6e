"""The held-out questions: fixed by their hash, and held out by wording and by value."""

import json
from collections import Counter
from datetime import UTC

import pytest

from k2mlx.agent.heldout import is_held_out_call
from k2mlx.agent.tools import builtin_tools, run_call
from k2mlx.chat import check_messages
from k2mlx.eval import wording
from k2mlx.eval.heldout import HELD_OUT_TEMPLATES, matches_held_out_template
from k2mlx.eval.questions import NOW, make_questions, read_questions, write_questions
from k2mlx.eval.scoring import right_answer, right_call
from k2mlx.eval.tools import questions_hash

CASES = read_questions()
ASKED = [case for case in CASES if case["gold"]]

# Committed before training. A change here means new questions, and every quoted figure is void.
SHA256 = "f804ded59ef7613a6135be948cbad88ed3e4ce87107de4890ae5f0294362662e"


def question(case):
    return case["messages"][-1]["content"]


def test_the_file_is_the_one_that_was_fixed():
    assert questions_hash() == SHA256


def test_the_file_is_what_the_generator_writes(tmp_path):
    write_questions(tmp_path / "again.jsonl")
    assert read_questions(tmp_path / "again.jsonl") == CASES
    assert make_questions(seed=1) != CASES


def test_enough_of_each_kind():
    counts = Counter(case["kind"] for case in CASES)
    assert counts["calculator"] >= 100
    assert counts["clock"] >= 60
    assert counts["convert_units"] >= 80
    assert counts["none"] >= 120
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert len({question(case) for case in CASES}) == len(CASES)
    assert sum(any(c.isdigit() for c in question(case)) for case in CASES if not case["gold"]) >= 40
    several_turns = sum(len(case["messages"]) > 1 for case in CASES) / len(CASES)
    assert 0.1 < several_turns < 0.2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_held_out_by_wording_and_by_value(case):
    check_messages(case["messages"])
    assert matches_held_out_template(question(case))
    if case["gold"]:
        assert is_held_out_call(**case["gold"])


@pytest.mark.parametrize("case", ASKED, ids=lambda case: case["id"])
def test_the_gold_call_and_the_tools_own_answer_are_right(case):
    gold = case["gold"]
    arguments = json.dumps(gold["arguments"])
    assert right_call(question(case), gold, gold["name"], arguments)
    result = run_call(builtin_tools(lambda: NOW), gold["name"], arguments)
    assert right_answer(case["kind"], case["answer"], f"It is {result}.")


def test_the_clock_stands_in_the_past():
    assert NOW.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("crunch 5 times 7 for me", True),
        ("Crunch the numbers for me.", False),
        ("SWAP 3 kg FOR pounds", True),
        ("Time check for New York City!", True),
        ("A baker fills 3 trays with 1,200 rolls each.  How many rolls does she bake?", True),
        ("i have 3 cats and 12 fish", True),
        ("What is 5 times 7?", False),
        ("What time is it in Rome?", False),
        ("Convert 3 kg to pounds.", False),
        ("", False),
    ],
)
def test_template_matching(text, held):
    assert matches_held_out_template(text) is held


def test_every_wording_is_a_held_out_template():
    for table in (wording.CALCULATOR, wording.CLOCK, wording.UNITS, wording.NONE):
        assert set(table) <= HELD_OUT_TEMPLATES

"""Values that no list holds, and the questions that are answered by copying them."""

import json
from random import Random

import pytest

from k2mlx.synth import make
from k2mlx.synth.wild import invented, wild_identifier, wild_like, wild_name


def test_names_hardly_ever_repeat():
    rng = Random(1)
    for draw in (invented, wild_name, wild_identifier):
        assert len({draw(rng) for _ in range(2000)}) > 1000


@pytest.mark.parametrize("value", ["Rome", "the grey owl", "B5O4M", "411-7347", "Ho Chi Minh City"])
def test_a_wild_value_has_the_form_of_the_one_it_replaces(value):
    drawn = {wild_like(value, Random(seed)) for seed in range(50)}
    assert len(drawn) > 40
    for other in drawn:
        assert other[0].isupper() == value[0].isupper() and other[0].isdigit() == value[0].isdigit()
        if not value.replace(" ", "").isalpha():
            assert len(other) == len(value) and ("-" in other) == ("-" in value)


@pytest.mark.parametrize(
    "value", ["7 pm", "a@b.com", "tomorrow at 10:30", "/tmp/x.txt", "3 + 4", "2027-04-17", ""]
)
def test_what_is_neither_words_nor_a_code_stays(value):
    assert wild_like(value, Random(1)) == value


def test_the_answer_to_a_lookup_stands_in_what_was_pasted():
    told = echoed = 0
    for record in make.records("lookup", 400, seed=5):
        messages = [m for m in record["messages"] if m["role"] != "system"]
        pasted = messages[0]["content"]
        for asked, said in zip(messages[::2], messages[1::2], strict=True):
            if "\n" not in pasted:
                assert said["content"] in asked["content"]
                echoed += 1
                continue
            heads = ("", "It is ", "It says ", "That is ")
            answers = {said["content"].removeprefix(head) for head in heads}
            answers |= {answer.removesuffix(".") for answer in answers}
            copied = [a for a in answers if a in pasted or json.dumps(a)[1:-1] in pasted]
            assert copied, (pasted, said["content"])
            told += 1
    assert told > 400 and echoed > 80

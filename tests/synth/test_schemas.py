"""Function calling over the tool universe: calls are valid, arguments come from the words."""

import json
from collections import Counter
from random import Random

import pytest

from k2mlx.agent.tools import check_arguments
from k2mlx.synth import make, schemas
from k2mlx.synth.catalogue import templates
from k2mlx.synth.declare import declare, styled
from k2mlx.synth.near_misses import NEAR_MISSES
from k2mlx.synth.phrasing import slots
from k2mlx.synth.requests import draw_request
from k2mlx.synth.rivals import alike


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return list(make.records("schemas", 2500, seed=21))


def test_the_universe_is_broad():
    assert len(templates()) >= 200
    assert len({t.names[0] for t in templates()}) == len(templates())
    kinds = Counter(p.kind for t in templates() for p in t.parameters)
    assert set(kinds) == {
        *("str", "int", "num", "num_m", "bool", "enum", "enum_int", "strs", "ints", "nums"),
    }


@pytest.mark.parametrize("template", templates(), ids=lambda t: t.names[0])
def test_a_template_fits_itself(template):
    """Every phrase gives every required value; answers use known slots only."""
    names = {p.names[0] for p in template.parameters}
    results = {key for key, _ in template.result}
    assert template.descriptions and template.phrases and template.answers
    for seed in range(3):
        tool = declare(template, Random(seed))
        # JSON Schema has no "float"; some published tool lists use it all the same.
        schema = json.loads(
            json.dumps(tool.spec["function"]["parameters"]).replace('"float"', '"number"')
        )
        phrases = template.phrases + [(">", f"{a}\n{b}") for a, _, b in template.missing]
        for phrase in phrases:
            request = draw_request(tool, Random(seed), phrase=phrase)
            problem = check_arguments(schema, request.call.arguments)
            assert problem is None, f"{phrase}: {problem}"
            assert not set(request.text) & set("{}<>|\x00"), request.text
    for said in template.answers:
        assert slots(said) <= names | results, said


def test_calls_fit_their_declarations(records):
    for record in records:
        declared = {s["function"]["name"]: s["function"]["parameters"] for s in record["tools"]}
        assert len(declared) == len(record["tools"])
        for message in record["messages"]:
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in declared
                json.loads(call["function"]["arguments"])


def test_the_kinds_of_conversation_are_all_there(records):
    calls = [[len(m["tool_calls"]) for m in r["messages"] if m.get("tool_calls")] for r in records]
    share = Counter(
        "none" if not made else "parallel" if max(made) > 1 else "one" if len(made) == 1 else "more"
        for made in calls
    )
    assert 0.10 < share["none"] / len(records) < 0.22
    assert 0.12 < share["parallel"] / len(records) < 0.25
    assert share["one"] > share["parallel"] > share["more"] > 0


def test_some_names_mean_nothing():
    known = {styled(n, "snake", Random(0)) for t in templates() for n in t.names}
    drawn = [declare(templates()[i % len(templates())], Random(i)) for i in range(2000)]
    plain = [t for t in drawn if "." not in t.name and "-" not in t.name and t.name.islower()]
    strange = sum(t.name not in known for t in plain) / len(plain)
    assert 0.12 < strange < 0.3


def test_copied_strings_stand_in_the_words():
    rng = Random(8)
    for template in templates():
        tool = declare(template, rng)
        request = draw_request(tool, rng)
        for slot, value in request.values.items():
            if tool.kinds[slot].kind == "str":
                start, *rest = str(value)
                assert "".join(rest) in request.text, (start, request)


def test_forms_of_values():
    seen = set()
    timer = next(t for t in templates() if t.names[0] == "set_timer")
    for seed in range(400):
        tool = declare(timer, Random(seed))
        value = tool.arguments({"minutes": 5})
        seen.add(type(next(iter(value.values()))).__name__)
    assert seen == {"int", "str"}


def test_a_tool_is_alike_itself_and_its_relatives():
    by_name = {t.names[0]: t for t in templates()}
    assert alike(by_name["get_weather"], by_name["get_weather"])
    assert alike(by_name["get_weather"], by_name["get_forecast"])
    assert not alike(by_name["get_weather"], by_name["send_email"])


def test_refusals_and_near_misses_call_nothing():
    rng = Random(4)
    for _ in range(300):
        for talk in (schemas.irrelevant(rng), schemas.near_miss(rng)):
            assert talk.tools
            assert [m["role"] for m in talk.messages if m["role"] != "system"] == [
                "user",
                "assistant",
            ]
            assert not talk.messages[-1].get("tool_calls")
    assert set(NEAR_MISSES) <= {t.names[0] for t in templates()}

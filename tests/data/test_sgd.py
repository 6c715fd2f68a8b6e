"""Schema-guided dialogues: renamed tools, typed arguments, and nothing lost on the way."""

import io
import json
import random
import tarfile

import pytest

from k2mlx.data import naming
from k2mlx.data.context import Context
from k2mlx.data.schema import parse_conversation
from k2mlx.data.sgd import argument_types, match_paraphrases, sgd

FIND = {
    "city": {"type": "string", "description": "Where"},
    "seats": {"type": "string", "description": "How many", "enum": ["1", "2", "3"]},
    "music": {"type": "string", "description": "Live music", "enum": ["True", "False", "dontcare"]},
}
DAY = {"day": {"type": "string", "description": "When"}}


def tool(name, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": f"{name} (all about it)", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = {
    "Eat_1.FindPlace": tool("Eat_1.FindPlace", FIND, ["city"]),
    "Eat_1.Book": tool("Eat_1.Book", {"city": FIND["city"], **DAY}, ["city", "day"]),
}


def slot(name, values=()):
    return {
        "name": name,
        "description": f"The {name}",
        "is_categorical": bool(values),
        "possible_values": list(values),
    }


def schema(version):
    music = ("True", "False", "dontcare")
    slots = [slot(f"town{version}"), slot("places", ("1", "2", "3")), slot("band", music)]
    find = {"required_slots": [f"town{version}"], "optional_slots": {"places": "", "band": ""}}
    book = {"required_slots": [f"town{version}", "visit_day"], "optional_slots": {}}
    intents = [
        {"name": "LookUpPlaces", "description": "Look up", **find},
        {"name": "ReserveOne", "description": "Reserve", **book},
    ]
    slots = [*slots, slot("visit_day")]
    return [{"service_name": f"Eat_1{version}", "slots": slots, "intents": intents}]


def dialogue(number):
    def asks(name, call_id, **arguments):
        function = {"name": f"Eat_1.{name}", "arguments": json.dumps(arguments)}
        call = {"id": call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def found(call_id, *rows):
        return {"role": "tool", "tool_call_id": call_id, "content": json.dumps(rows)}

    place = {"city": "Rome", "seats": "2", "music": "True", "street_name": "Via Due"}
    messages = [
        {"role": "user", "content": "Find me a place in Rome."},
        asks("FindPlace", "call_1", city="Rome", seats="2", music="True"),
        found("call_1", *[place] * 5),
        {"role": "assistant", "content": "I found one in Via Due. Shall I book it?"},
        {"role": "user", "content": "Yes, for today."},
        asks("Book", "call_2", city="Rome", day="2019-03-01"),
        found("call_2", {"city": "Rome", "day": "2019-03-01"}),
        {"role": "assistant", "content": "It is booked."},
    ]
    return {"id": f"train:{number}", "tools": list(TOOLS), "messages": messages}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sgd")
    (folder / "sgd_train_tools.json").write_text(json.dumps(TOOLS))
    with tarfile.open(folder / "sgd_x_ccbysa.tar.xz", "w:xz") as tar:
        for version in range(1, 6):
            data = json.dumps(schema(version)).encode()
            info = tarfile.TarInfo(f"sgd_x/data/v{version}/train/schema.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path = folder / "sgd_train_ccbysa.jsonl"
    path.write_text("\n".join(json.dumps(dialogue(number)) for number in range(80)))
    return path


@pytest.fixture(scope="module")
def conversations(path):
    others = [tool("noise", {}, []), tool("hum", {}, [])]
    return list(sgd(path, Context(random.Random(0), [tool("clock", {}, [])], others)))


def calls(conversation):
    made = [c["function"] for m in conversation.messages for c in m.get("tool_calls", ())]
    return [(call["name"], json.loads(call["arguments"])) for call in made]


def test_conversations_are_valid_and_whole(conversations):
    assert len(conversations) > 70
    for conversation in conversations:
        parse_conversation(json.loads(conversation.to_json()))
        assert conversation.messages[-1]["content"] == "It is booked."
        ids = [c["id"] for m in conversation.messages for c in m.get("tool_calls", ())]
        names = [name for name, _ in calls(conversation)]
        assert ids == [f"functions.{name}:{n}" for n, name in enumerate(names)]


def test_paraphrases_match_by_place(path):
    found = match_paraphrases(TOOLS, path.with_name("sgd_x_ccbysa.tar.xz"), "train")
    assert [len(versions) for versions in found.values()] == [5, 5]
    assert found["Eat_1.FindPlace"][2]["function"]["name"] == "Eat_13.LookUpPlaces"


def test_types_come_from_the_values(path):
    assert argument_types(path) == {"seats": "integer", "music": "boolean"}


def test_arguments_agree_with_the_declaration(conversations):
    kinds = {"integer": int, "boolean": bool, "string": str}
    seen = set()
    for conversation in conversations:
        declared = {t["function"]["name"]: t["function"]["parameters"] for t in conversation.tools}
        for name, arguments in calls(conversation):
            properties = declared[name]["properties"]
            assert set(declared[name]["required"]) <= set(arguments)
            for key, value in arguments.items():
                seen.add(properties[key]["type"])
                assert type(value) is kinds[properties[key]["type"]]
                assert value in properties[key].get("enum", [value])
    assert seen == {"integer", "boolean", "string"}


def test_names_differ_between_conversations_and_are_the_same_within(conversations):
    names, keys = set(), set()
    for conversation in conversations:
        (find, first), (book, second) = calls(conversation)
        names |= {find, book}
        keys |= set(first)
        assert len(set(first) & set(second)) == 1  # the city, called alike in both tools
        assert all("." not in name for name in (find, book))
    assert len(names) > 20
    assert len(keys) > 12


def test_results_use_the_names_of_the_arguments(conversations):
    for conversation in conversations:
        result = next(m for m in conversation.messages if m["role"] == "tool")
        rows = json.loads(result["content"])
        rows = rows if isinstance(rows, list) else [rows]
        assert 1 <= len(rows) <= 3
        _, arguments = calls(conversation)[0]
        assert set(arguments) < set(rows[0])
        assert rows[0].items() >= arguments.items()
        [other] = set(rows[0]) - set(arguments)
        assert naming.words(other) == ["street", "name"]


def test_the_day_that_they_speak_on_is_told(conversations):
    assert all(c.messages[0]["role"] == "system" for c in conversations)
    assert all("2019" in c.messages[0]["content"] for c in conversations)


def test_distractors_stand_by(conversations):
    counts = {len(conversation.tools) for conversation in conversations}
    assert counts > {2, 3}

"""Dialogues and questions to conversations, on small copies of the sources' own forms."""

import io
import json
import random
import tarfile

import pytest

from k2mlx.data import chats, naming, tool_chats
from k2mlx.data.context import Context, merge_turns
from k2mlx.data.schema import parse_conversation
from k2mlx.errors import ConfigError


def spec(name):
    parameters = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def calculate(expression):
    return format(eval(expression), "g")  # the test's own sums only


def context(seed=0):
    builtin = [spec("calculator"), spec("clock"), spec("convert_units")]
    return Context(random.Random(seed), builtin, [spec("other"), spec("another")], calculate)


def archive(path, **files):
    with tarfile.open(path, "w:xz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_DOT_", "."))
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def valid(conversations):
    found = list(conversations)
    for conversation in found:
        parse_conversation(json.loads(conversation.to_json()))
        roles = [m["role"] for m in conversation.messages if m["role"] != "system"]
        assert roles[0] == "user"
        assert roles[-1] == "assistant"
    return found


def spoken(conversation):
    return [m["content"] for m in conversation.messages if m["role"] != "system"]


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("im doing good\nhow are you?", "I'm doing good. How are you?"),
        ("i dont know. maybe", "I don't know. Maybe."),
        ("  ", ""),
        ("I'm fine!", "I'm fine!"),
        ("well... ok", "Well... Ok."),
    ],
)
def test_tidy(text, tidied):
    assert chats.tidy(text) == tidied


def test_merge_turns():
    messages = [{"role": r, "content": c} for r, c in [("user", "a"), ("user", "b")]]
    assert merge_turns(messages) == [{"role": "user", "content": "a b"}]


def test_parts_begin_with_the_user_and_keep_order():
    said = [
        {"role": ("user", "assistant")[n % 2], "content": f"{n} " + "word " * 20} for n in range(40)
    ]
    found = list(chats.parts(said, 500))
    assert len(found) > 3
    assert all(part[0]["role"] == "user" for part in found)
    flat = [message["content"] for part in found for message in part]
    assert flat == [message["content"] for message in said]


def test_byu_takes_the_better_half(tmp_path):
    rows = [
        {
            "id": f"{n}",
            "ratings": {"witty": n},
            "messages": [
                {"role": "user", "content": f"Hello there {n}"},
                {"role": "assistant", "content": "hi"},
            ],
        }
        for n in range(20)
    ]
    path = tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = valid(chats.byu(path, context()))
    assert {int(c.id.split("#")[0]) for c in found} == set(range(10, 20))
    assert all(spoken(c)[-1] == "Hi." for c in found)


def test_dialogue_replaces_placeholders_and_leaves_out_coarse_talk(tmp_path):
    def row(row_id, *said):
        roles = ["user", "assistant"] * 5
        messages = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
        return json.dumps({"id": row_id, "messages": messages}) + "\n"

    path = tmp_path / "d.jsonl"
    path.write_text(
        row("a", "Hi, I'm [User 1's name].", "I'm (user 2's name).")
        + row("b", "Well, what the fuck?", "Oh.")
        + row("c", "Hi there, good morning", "", "Are you there?")
    )
    [only] = valid(chats.dialogue(path, context()))
    assert "[" not in "".join(spoken(only))
    assert "(" not in "".join(spoken(only))


YAML = """categories:
- x
conversations:
- - What is a computer?
  - A machine.
  - 'It''s a "device"
    that computes.'
- - Who made you?
  - Gregory said I am a bot.
"""


def test_chatterbot_pairs_each_answer_and_drops_other_bots(tmp_path):
    path = archive(tmp_path / "c.tar.xz", english__computers_DOT_yml=YAML, english__ai_DOT_yml=YAML)
    found = valid(chats.chatterbot(path, context()))
    assert [spoken(c) for c in found] == [
        ["What is a computer?", "A machine."],
        ["What is a computer?", 'It\'s a "device" that computes.'],
    ]


def test_trivia_lists_choices_when_the_question_needs_them(tmp_path):
    text = (
        "#Q Three of these hibernate. Which one does not?\n^ Sloth\nA Mouse\nB Sloth\nC Frog\n\n"
        "#Q When did it end?\n^ 1945\nA 1945\nB 1950\n\n#Q Is it?\n^ True\nA True\nB False\n"
    )
    found = valid(chats.trivia(archive(tmp_path / "t.tar.xz", categories__animals=text), context()))
    answers = {spoken(c)[0]: spoken(c)[1] for c in found}
    listed = "Three of these hibernate. Which one does not? Mouse, Sloth or Frog?"
    assert "Sloth" in answers[listed]
    assert "1945." in answers.values()
    assert len(answers) == 2


def test_selfinstruct(tmp_path):
    task = {"id": "t", "instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]}
    path = archive(tmp_path / "s.tar.xz", data__seed_tasks_DOT_jsonl=json.dumps(task))
    [only] = valid(chats.selfinstruct(path, context()))
    assert spoken(only) == ["Add.\n\n1 2", "3"]


def test_about_a_third_of_the_talks_declare_tools_and_never_call(tmp_path):
    messages = [{"role": "user", "content": "Hello you"}, {"role": "assistant", "content": "Hi"}]
    path = tmp_path / "d.jsonl"
    rows = (json.dumps({"id": f"{n}", "messages": messages}) for n in range(400))
    path.write_text("\n".join(rows))
    found = valid(chats.dialogue(path, context()))
    share = sum(bool(c.tools) for c in found) / len(found)
    assert 0.25 < share < 0.45
    assert not any(m.get("tool_calls") for c in found for m in c.messages)


def test_gsm8k_marks_become_calls(tmp_path):
    rows = [
        ("How many?", "48/2 = <<48/2=24>>24.\nSo 48+24 = <<48+24=72>>72.\n#### 72"),
        ("Wrong final?", "<<1+1=2>>2\n#### 5"),
        ("No sum?", "Nothing.\n#### 5"),
        ("Not a sum?", "<<x+1=2>>\n#### 2"),
    ]
    text = "\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows)
    path = archive(tmp_path / "g.tar.xz", data__train_DOT_jsonl=text)
    [only] = valid(tool_chats.gsm8k(path, context()))
    calls = [c["function"] for m in only.messages for c in m.get("tool_calls", ())]
    expressions = [json.loads(c["arguments"])["expression"].replace(" ", "") for c in calls]
    assert expressions == ["48/2", "48+24"]
    assert [m["content"] for m in only.messages if m["role"] == "tool"] == ["24", "72"]
    assert "72" in only.messages[-1]["content"]


def test_metatool_calls_the_right_tool_or_says_there_is_none(tmp_path):
    names = [f"Tool{letter}" for letter in "ABCDEFGH"]
    queries = [f"Please do the thing {name} does, number {n}" for n in range(20) for name in names]
    lines = [f'"{query}",{query.split()[4]}' for query in queries]
    path = archive(
        tmp_path / "m.tar.xz",
        d__big_tool_des_DOT_json=json.dumps({name: f"Does {name}." for name in names}),
        d__plugin_des_DOT_json="{}",
        d__all_clean_data_DOT_csv="Query,Tool\n" + "\n".join(lines),
    )
    found = valid(tool_chats.metatool(path, context()))
    called = 0
    for conversation in found:
        query, *rest = conversation.messages
        right = "".join(naming.words(query["content"].split()[4]))
        declared = {"".join(naming.words(t["function"]["name"])) for t in conversation.tools}
        if calls := rest[0].get("tool_calls"):
            called += 1
            assert "".join(naming.words(calls[0]["function"]["name"])) == right
            [value] = json.loads(calls[0]["function"]["arguments"]).values()
            assert value == query["content"]
        else:
            assert right not in declared
    assert 0.3 < called / len(found) < 0.7


@pytest.mark.parametrize("style", sorted(set(naming.TOOL_STYLES), key=lambda style: style.__name__))
def test_every_naming_style_keeps_its_words(style):
    words = ["find", "bus", "tickets"]
    assert naming.words(style(words)) == words


def test_names_are_unique():
    taken: set[str] = set()
    assert [naming.unlike("a", taken) for _ in range(3)] == ["a", "a2", "a3"]


def test_a_missing_archive_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such source file"):
        list(chats.selfinstruct(tmp_path / "none.tar.xz", context()))

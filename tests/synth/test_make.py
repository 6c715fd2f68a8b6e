"""The files that `k2mlx synth tools` writes."""

import json
import re
from itertools import pairwise

import pytest

from k2mlx.cli import main
from k2mlx.synth import make


@pytest.mark.parametrize("kind", make.KINDS)
def test_records_are_reproducible_distinct_conversations(kind):
    first, again = (list(make.records(kind, 120, seed=2)) for _ in range(2))
    other = list(make.records(kind, 120, seed=3))
    assert first == again != other
    assert len({record["id"] for record in first}) == 120
    for record in first:
        roles = [m["role"] for m in record["messages"] if m["role"] != "system"]
        assert roles[0] == "user" and roles[-1] == "assistant"
        for before, after in pairwise(roles):
            assert (before, after) not in {("user", "user"), ("user", "tool"), ("tool", "user")}


@pytest.mark.parametrize("kind", ["no_tool", "chat"])
def test_small_talk_calls_nothing(kind):
    for record in make.records(kind, 400, seed=6):
        assert not any(m.get("tool_calls") for m in record["messages"])
        assert bool(record["tools"]) == (kind == "no_tool")


def test_a_name_is_remembered():
    asked_again = 0
    for record in make.records("chat", 6000, seed=1):
        text = [m["content"] for m in record["messages"]]
        told = re.search(r"(?i)my name is (\w+)", text[0])
        for asked, said in zip(text[2::2], text[3::2], strict=True):
            if told and re.match(r"(?i)what.*my name", asked):
                asked_again += 1
                assert told[1] in said
    assert asked_again > 10


def test_shares_add_up():
    counts = make.shares(1000)
    assert sum(counts.values()) == 1000
    assert counts["schemas"] == max(counts.values())


def test_held_out_wordings_are_passed_in():
    refused = list(make.records("chat", 50, 1, lambda text: "e" in text))
    assert all(
        "e" not in m["content"] for r in refused for m in r["messages"] if m["role"] == "user"
    )


def test_command(tmp_path, capsys):
    out = tmp_path / "new" / "tools.jsonl"
    assert main(["synth", "tools", "--count", "70", "--seed", "4", "--out", str(out)]) in (0, None)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 70
    assert all(set(line) == {"id", "messages", "tools"} for line in lines)
    assert "70 conversations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "named"), [(["--count", "0"], "--count"), (["--kind", "poems"], "--kind")]
)
def test_command_names_what_is_wrong(tmp_path, capsys, wrong, named):
    code = main(["synth", "tools", "--out", str(tmp_path / "x.jsonl"), *wrong])
    assert code == 2
    assert named in capsys.readouterr().err

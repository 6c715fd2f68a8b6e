"""`k2mlx eval`: what it prints where, with a scripted model in place of the engine."""

import hashlib
import json
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import pytest

from k2mlx.chat import parse_text
from k2mlx.cli import eval as command
from k2mlx.cli import main
from tests.folders import write_folder

CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.clock:0<|tool_call_argument_begin|>"
    '{"place": "UTC"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
)


class Played:
    stats, runs = None, ()

    def __init__(self, text):
        self.events = parse_text(text, reasoning="none")

    def __iter__(self):
        return iter(self.events)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A folder that counts as a model, whose every first turn calls the clock."""
    asked = []

    def stream_chat(engine, messages, tools, sampling, thinking=None, on_progress=None):
        asked.append((tools, sampling))
        return Played("Done." if messages[-1]["role"] == "tool" else CALL)

    @contextmanager
    def engine(path):
        yield "engine"

    # By name: the attribute k2mlx.generate is the public function.
    monkeypatch.setattr(import_module("k2mlx.generate.chat"), "stream_chat", stream_chat)
    monkeypatch.setattr(command, "_engine", engine)
    return str(tmp_path), asked


@pytest.fixture
def cases(tmp_path):
    gold = {"name": "clock", "arguments": {"place": ["utc", "GMT"]}}
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    line = {"id": "a", "messages": [{"role": "user", "content": "Time?"}], "tools": tools}
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps({**line, "gold": g}) + "\n" for g in ([gold], [])))
    return str(path)


def run(capsys, *args):
    code = main(["eval", *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_calls_prints_one_object(capsys, model, cases):
    code, out, err = run(capsys, "calls", cases, "--model", model[0], "--json")
    assert code == 0
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert figures["accuracy"] == 0.5
    assert figures["n"] == 2
    assert figures["by_calls"]["one"]["accuracy"] == 1
    assert "2/2 cases" in err
    assert model[1][0][1].temperature == 0


def test_calls_prints_a_table_and_failures(capsys, model, cases):
    code, out, err = run(capsys, "calls", cases, "--model", model[0], "-v")
    assert code == 0
    assert out.splitlines()[-1].split() == ["all", "2", "50.0%"]
    assert "a: made 1 calls, wanted 0" in err


def test_tools_prints_one_object(capsys, model, tmp_path):
    out_file = tmp_path / "outcomes.jsonl"
    args = ("--model", model[0], "--limit", "8", "--seed", "3", "--out", str(out_file), "--json")
    code, out, _ = run(capsys, "tools", *args)
    assert code == 0
    figures = json.loads(out)
    assert figures["n_questions"] == 6
    assert figures["n_no_tool"] == 2
    assert figures["false_call_rate"] == 1
    assert len(figures["questions_sha256"]) == 64
    assert figures["seed"] == 3
    assert len(out_file.read_text().splitlines()) == 8
    tools, sampling = model[1][0]
    assert [tool["function"]["name"] for tool in tools] == ["calculator", "clock", "convert_units"]
    assert sampling.seed == 3


def test_tools_shows_failures(capsys, model):
    code, out, err = run(capsys, "tools", "--model", model[0], "--limit", "2", "-v")
    assert code == 0
    assert "right call" in out
    assert 'clock({"place": "UTC"})' in err


def test_chat_prints_a_transcript(capsys, model):
    code, out, err = run(capsys, "chat", "--model", model[0], "--seed", "5", "--count", "2")
    assert code == 0
    assert "temperature=0.6 seed=5" in out.splitlines()[0]
    assert out.count("you: ") == 6
    assert "[calls clock(" in out
    assert "2/2 chats" in err
    assert [(tools, sampling.seed) for tools, sampling in model[1]] == [
        ([], 5 + number) for number in range(6)
    ]


def test_chat_prints_one_object(capsys, model):
    code, out, _ = run(capsys, "chat", "--model", model[0], "--count", "1", "--json")
    assert code == 0
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert (figures["temperature"], figures["seed"], figures["count"]) == (0.6, 0, 1)
    assert len(figures["chats"][0]) == 6


def test_text_prints_a_table_or_one_object(capsys, tmp_path):
    folder = write_folder(tmp_path / "model")
    (tmp_path / "cats.heldout.json").write_text(json.dumps(cats_facts(folder)))
    np.full(30, 20, "<u2").tofile(tmp_path / "cats.heldout.bin")
    args = ("text", "--model", str(folder), "--data", str(tmp_path), "--max-tokens", "20")
    code, out, err = run(capsys, *args)
    assert code == 0
    assert out.splitlines()[1].startswith("cats")
    assert "1/1 sources" in err
    code, out, _ = run(capsys, *args, "--json")
    assert code == 0
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert figures["max_tokens"] == 20
    assert figures["sources"]["cats"]["tokens"] == 20


def cats_facts(model):
    sha256 = hashlib.sha256((model / "tokenizer.model").read_bytes()).hexdigest()
    return {"name": "cats.heldout", "kind": "text", "tokens": 30, "tokenizer_sha256": sha256}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["chat", "--count", "0"], "--count: got 0, wanted 1 or more chats"),
        (["chat", "--temperature", "nan"], "temperature: got nan"),
        (["text", "--data", "nowhere"], "nowhere: no NAME.heldout.json"),
        (["text", "--data", ".", "--max-tokens", "1"], "--max-tokens: got 1"),
        (["calls", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["tools", "--limit", "0"], "--limit: got 0"),
        (["tools", "--temperature", "-1"], "temperature: got -1.0"),
        (["tools", "--max-tokens", "0"], "max_tokens: got 0"),
        (["tools", "--seed", "-1"], "seed: got -1"),
    ],
)
def test_bad_values(capsys, model, args, message):
    code, out, err = run(capsys, *args, "--model", model[0])
    assert code == 2
    assert out == ""
    assert err.startswith(f"k2mlx: {message}")
    assert err.count("\n") == 1


def test_a_model_that_is_not_there(capsys):
    code, _, err = run(capsys, "tools", "--model", "nowhere")
    assert code == 2
    assert "nowhere" in err

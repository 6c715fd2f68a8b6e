"""k2mlx data: build a recipe in a folder, look at what came out."""

import json

import pytest

from k2mlx.cli import main
from k2mlx.home import find_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", "text": "One.\nTwo 34."}) + "\n")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "x", "messages": messages}) + "\n")
    (tmp_path / "data.toml").write_text(
        '[[text]]\nname="t"\npath="t.jsonl"\nlicence="CC0"\nsource="test"\n'
    )
    return tmp_path


def build(folder, *more):
    model = str(find_model("models/k2-nano"))
    common = ["--source", str(folder), "--out", str(folder / "out"), "--model", model]
    return main(["data", "build", str(folder / "data.toml"), *common, *more])


def test_build_and_preview(folder, capsys):
    assert build(folder, "--chat", f"talk={folder / 'c.jsonl'}", "--json") == 0
    [line] = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert [shard["name"] for shard in report["shards"]] == ["t", "t.heldout", "talk"]
    assert json.loads((folder / "out" / "SHARDS.json").read_text()) == report["shards"]
    assert main(["data", "preview", str(folder / "out" / "talk"), "--count", "1"]) == 0
    assert "<|im_middle|>Hi<|im_end|>" in (out := capsys.readouterr().out)
    assert "⟦Hello.<|im_end|>⟧" in out
    assert main(["data", "preview", str(folder / "out" / "t"), "--count", "1"]) == 0
    assert "One.\nTwo 34.[EOS]" in capsys.readouterr().out


def test_only_some_shards(folder, capsys):
    assert build(folder, "--chat", f"talk={folder / 'c.jsonl'}", "--only", "talk") == 0
    assert "talk" in capsys.readouterr().out
    assert not (folder / "out" / "t.bin").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "none"], "no such shard"),
        (["--chat", "talk"], "wanted NAME=FILE.jsonl"),
        (["--chat", "talk=none.jsonl"], "no such source file"),
    ],
)
def test_what_is_wrong_is_one_line(folder, capsys, more, message):
    assert build(folder, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("k2mlx: ") and message in error


def test_preview_of_nothing(folder, capsys):
    assert main(["data", "preview", str(folder / "none")]) == 2
    assert "no such shard" in capsys.readouterr().err

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
    assert build(folder, "--only", "t") == 0  # what was built before stays in the list
    listed = json.loads((folder / "out" / "SHARDS.json").read_text())
    assert {shard["name"] for shard in listed} == {"t", "t.heldout", "talk"}
    capsys.readouterr()
    assert main(["data", "preview", str(folder / "out" / "talk"), "--count", "1"]) == 0
    assert "<|im_middle|>Hi<|im_end|>" in (out := capsys.readouterr().out)
    assert "⟦Hello.<|im_end|>⟧" in out
    assert main(["data", "preview", str(folder / "out" / "t"), "--count", "1"]) == 0
    assert "One.\nTwo 34.[EOS]" in capsys.readouterr().out


def test_only_some_shards(folder, capsys):
    assert build(folder, "--chat", f"talk={folder / 'c.jsonl'}", "--only", "talk") == 0
    assert "talk" in capsys.readouterr().out
    assert not (folder / "out" / "t.bin").exists()


def test_an_optional_source_that_is_missing_is_said_and_overwrites_nothing(folder, capsys):
    with (folder / "data.toml").open("a") as recipe:
        recipe.write('[[chat]]\nname="synth"\n[[chat.source]]\nkind="jsonl"\npath="none.jsonl"\n')
        recipe.write('licence="MIT"\nsource="k2mlx synth"\noptional=true\n')
    assert build(folder, "--chat", f"synth={folder / 'c.jsonl'}", "--only", "synth") == 0
    built = (folder / "out" / "synth.bin").read_bytes()
    assert build(folder) == 0
    assert "synth: left out, there is no" in capsys.readouterr().err
    assert (folder / "out" / "synth.bin").read_bytes() == built


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

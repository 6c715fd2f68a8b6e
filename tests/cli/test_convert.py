"""convert, check and slice as they are typed."""

import json
import shutil

import pytest

from k2mlx.cli import main
from k2mlx.config import ModelConfig, QuantSpec
from k2mlx.weights.source import Source
from tests.folders import write_folder
from tests.weights.slices import official_slice


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    return write_folder(out)


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_convert_then_check(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(folder), str(out), "--rest", "q4:32", "--json"]) == 0
    facts = last_json(capsys)
    assert facts["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert facts["peak_rss"] > 10**6
    found = Source(out, ModelConfig.load(out)).quantization()
    assert found and found.rest == QuantSpec(4, 32)
    assert main(["check", str(out), "--json"]) == 0
    report = last_json(capsys)
    assert report["ok"] and {"hashes", "values", "tokenizer"} <= {
        check["what"] for check in report["checks"] if check["ok"]
    }


def test_what_was_converted_generates(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(folder), str(out)]) == 0
    command = ["generate", "--prompt", "hello", "--max-tokens", "5", "--temperature", "0", "--json"]
    texts = []
    for model in (folder, out):
        assert main([*command, "--model", str(model)]) == 0
        texts.append(last_json(capsys)["text"])
    assert texts[0] == texts[1]


def test_slice_writes_what_is_asked_for(tmp_path, capsys):
    base = tmp_path / "tiny"
    base.mkdir()
    official = official_slice(base, "bf16", 1)
    out = tmp_path / "slice"
    words = ["--config", str(official), "--layers", "3", "--format", "int4", "--rest", "q8:32"]
    assert main(["slice", str(out), *words, "--vocab", "64", "--seed", "7"]) == 0
    config = ModelConfig.load(out)
    assert (config.num_hidden_layers, config.vocab_size) == (3, 64)
    found = Source(out, config).quantization()
    assert found and found.experts == QuantSpec(4, 32, "symmetric")
    assert found.rest == QuantSpec(8, 32)
    again = tmp_path / "again"
    assert main(["slice", str(again), *words, "--vocab", "64", "--seed", "7"]) == 0
    for file in out.glob("*.safetensors"):
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_check_exits_1_and_names_what_is_wrong(folder, capsys):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "WRONG weights" in out and "cut off" in out and "1 of" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experts", "int5"], "--experts: got 'int5', wanted auto"),
        (["--rest", "int4"], "--rest: got 'int4', wanted auto"),
        (["--rest", "q7"], "bits: got 7, wanted one of"),
        (["--head", "q8:48"], "group_size: got 48, wanted one of"),
        (["--jobs", "0"], "--jobs: got 0, wanted at least 1"),
        (["--rest", "q8:128"], "wanted a multiple of group_size = 128"),
    ],
)
def test_bad_options_of_convert(folder, tmp_path, capsys, words, message):
    assert main(["convert", str(folder), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "0"], "--layers: got 0, wanted 1 to"),
        (["--vocab", "-5"], "--vocab: got -5, wanted 1 to"),
        (["--vocab", "2000000000", "--layers", "1"], "make room or write to another disk"),
        (["--seed", "-1"], "--seed: got -1, wanted 0 to"),
        (["--rest", "q8", "--format", "fp8"], "with --format fp8, wanted int4"),
        (["--rest", "keep"], "--rest: got 'keep', wanted bf16, q8 or q4"),
        (["--rest", "int4"], "--rest: got 'int4', wanted bf16, q8 or q4"),
        (["--rest", "q8:128", "--config", "k2-nano"], "wanted a multiple of group_size = 128"),
        (["--config", "no-such-model"], "no such folder"),
    ],
)
def test_bad_options_of_slice(tmp_path, capsys, words, message):
    words = [*([] if "--config" in words else ["--config", "kimi-k2-thinking"]), *words]
    assert main(["slice", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_slice_does_not_mix_with_another(tmp_path, capsys):
    (tmp_path / "out.partial").mkdir()
    assert main(["slice", str(tmp_path / "out"), "--config", "k2-nano"]) == 2
    assert "out.partial: exists already" in capsys.readouterr().err


def test_a_source_that_is_no_model(tmp_path, capsys):
    assert main(["convert", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "no config.json there" in capsys.readouterr().err
    assert main(["check", "no-such-model"]) == 2


def test_links_that_lead_in_a_circle(folder, capsys):
    file = folder / "model.safetensors"
    shutil.move(file, folder / "old")
    file.symlink_to(folder / "other.safetensors")
    (folder / "other.safetensors").symlink_to(file)
    assert main(["check", str(folder)]) == 1
    assert main(["generate", "--model", str(folder), "--prompt", "x"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_names_that_cannot_be_printed_are_escaped(folder, capsys):
    index = {"weight_map": {"model.norm.weight": "\ud800.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["check", str(folder)]) == 1
    assert "\\ud800.safetensors: missing" in capsys.readouterr().out.encode().decode()

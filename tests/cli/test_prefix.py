"""The prefix cache's options: sizes, what is kept where, and what `clean` says of it."""

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx import cli
from k2mlx.cli.prefix import arguments, engine_options, parse_size
from tests.folders import write_folder

PROMPT = "the cat sat on the mat and saw the dog " * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def generate(folder, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("K2MLX_HOME", str(tmp_path / "home"))

    def run(*args):
        fixed = ["--model", folder, "--max-tokens", "3", "--temperature", "0", "--json"]
        assert cli.main(["generate", *fixed, "--prompt", PROMPT, *args]) == 0
        captured = capfd.readouterr()
        assert captured.err == ""
        return json.loads(captured.out)

    return run


def test_a_long_prompt_is_read_once(generate, capfd, tmp_path):
    first, again = generate("--prefix-cache"), generate("--prefix-cache")
    assert first["text"] == again["text"]
    assert (first["cached_tokens"], first["disk_tokens"]) == (0, 0)
    whole = (first["prompt_tokens"] - 1) // 256 * 256
    assert again["cached_tokens"] == again["disk_tokens"] == whole > 0
    assert cli.main(["clean", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)["entries"]
    assert [(entry["name"], entry["files"]) for entry in listed] == [("cache", whole // 256)]
    assert cli.main(["clean", "cache", "--yes"]) == 0
    assert not (tmp_path / "home" / "cache").exists()
    capfd.readouterr()
    assert generate("--prefix-cache")["cached_tokens"] == 0


@pytest.mark.parametrize(
    "args", [[], ["--no-prefix-cache"], ["--prefix-cache", "--prefix-cache-disk", "0"]]
)
def test_nothing_is_written_unasked(generate, tmp_path, args):
    generate(*args)
    assert not (tmp_path / "home").exists()


def parsed(default, *args):
    parser = argparse.ArgumentParser()
    arguments(parser, default)
    return engine_options(parser.parse_args(args))


def test_what_the_options_mean():
    assert parsed(False) == parsed(True, "--no-prefix-cache") == {"reuse": False}
    prefix = parsed(True)["prefix"]
    assert (prefix.memory, prefix.disk, prefix.folder) == (None, None, None)
    prefix = parsed(True, "--prefix-cache-memory", "2G", "--prefix-cache-disk", "0")["prefix"]
    assert (prefix.memory, prefix.disk) == (2 * 2**30, 0)


@given(st.integers(0, 10**6), st.sampled_from(["", "K", "M", "G", "T"]), st.data())
def test_sizes(number, unit, data):
    power = "KMGT".index(unit) + 1 if unit else 0
    suffix = data.draw(st.sampled_from(["", "iB", "B"] if unit else ["", "B"]))
    base = 1000 if suffix == "B" else 1024
    spelled = data.draw(st.sampled_from([str.lower, str.upper]))(f"{number}{unit}{suffix}")
    assert parse_size(spelled) == number * base**power


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "1..5G", "8 apples", "nan", "1e3", "8Gi", "1" * 40]
)
def test_what_is_no_size(text, capfd):
    with pytest.raises(argparse.ArgumentTypeError, match="8G"):
        parse_size(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--prompt", "x", f"--prefix-cache-disk={text}"])
    assert ended.value.code == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_half_a_size():
    assert parse_size("1.5K") == 1536

"""`k2mlx generate`: what goes to standard output, what to standard error, and the exit code."""

import io
import json
import subprocess
import sys

import pytest

from k2mlx import cli
from k2mlx.cli.generate import ProgressBar
from tests.folders import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def generate(folder, capfdbinary):
    def run(*args, code=0):
        assert cli.main(["generate", "--model", folder, "--max-tokens", "8", *args]) == code
        captured = capfdbinary.readouterr()
        return captured.out.decode(), captured.err.decode()

    return run


def test_prints_the_text_and_nothing_else(generate):
    out, err = generate("--prompt", "Hello", "--seed", "1")
    assert out.endswith("\n")
    assert out.strip("\n")
    assert err == ""


def test_a_seed_repeats_the_text(generate):
    first, _ = generate("--prompt", "Hello", "--seed", "5", "--temperature", "1")
    again, _ = generate("--prompt", "Hello", "--seed", "5", "--temperature", "1")
    other, _ = generate("--prompt", "Hello", "--seed", "6", "--temperature", "1")
    assert first == again != other


def test_json_is_one_line_with_the_same_text(generate):
    text, _ = generate("--prompt", "Hello", "--temperature", "0")
    out, err = generate("--prompt", "Hello", "--temperature", "0", "--json")
    assert err == ""
    assert out.count("\n") == 1
    report = json.loads(out)
    assert report["text"] + "\n" == text
    assert report["finish_reason"] in ("stop", "length")
    assert report["completion_tokens"] <= 8
    assert report["prompt_tokens"] > 5
    assert report["peak_memory"] > 0
    assert 0 < report["first_token_seconds"] <= report["seconds"]
    assert report["prompt_tokens_per_second"] > 0
    assert report["generation_tokens_per_second"] > 0


def test_guessing_changes_no_text_and_can_be_switched_off(generate):
    options = ("--raw", "--prompt", "one two three one two three one two", "--temperature", "0")
    on = json.loads(generate(*options, "--json", "--speculate")[0])
    off = json.loads(generate(*options, "--json", "--no-speculate")[0])
    assert on["text"] == off["text"]
    assert on["accepted_tokens"] <= on["drafted_tokens"]
    assert off["drafted_tokens"] == 0


def test_raw_continues_the_text_without_an_envelope(generate):
    chat = json.loads(generate("--prompt", "The cat", "--temperature", "0", "--json")[0])
    raw = json.loads(generate("--prompt", "The cat", "--temperature", "0", "--json", "--raw")[0])
    assert raw["prompt_tokens"] < chat["prompt_tokens"]
    assert raw["text"] != chat["text"]


def test_a_system_message_goes_before_the_prompt(generate):
    without = json.loads(generate("--prompt", "Hello", "--json")[0])
    among = json.loads(generate("--prompt", "Hello", "--system", "Be brief.", "--json")[0])
    assert among["prompt_tokens"] > without["prompt_tokens"]


def test_a_dash_reads_standard_input(folder):
    command = [sys.executable, "-m", "k2mlx", "generate", "--model", folder, "--prompt", "-"]
    command += ["--max-tokens", "3", "--temperature", "0", "--json"]
    done = subprocess.run(command, input="Hé".encode(), capture_output=True, check=False)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    command[command.index("-")] = "Hé"
    assert (
        json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["text"]
        == (report["text"])
    )
    done = subprocess.run(
        [*command[:6], "--prompt", "-"], input=b"\xff", capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"byte 0 is not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", ""], "--prompt: got nothing"),
        (["--prompt", "  \n"], "--prompt: got nothing"),
        (["--prompt", "", "--raw"], "--prompt: got nothing"),
        (["--prompt", "x", "--raw", "--system", "y"], "--system: got one with --raw"),
        (["--prompt", "x", "--temperature", "-1"], "temperature: got -1.0, wanted 0 or more"),
        (["--prompt", "x", "--top-p", "0"], "top_p: got 0.0"),
        (["--prompt", "x", "--top-k", "-2"], "top_k: got -2"),
        (["--prompt", "x", "--min-p", "nan"], "min_p: got nan"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens: got 0, wanted 1 or more"),
        (["--prompt", "x", "--seed", "-1"], "seed: got -1"),
        (["--prompt", "cat " * 1200], "the context is 1024"),
    ],
)
def test_bad_values_are_one_line(generate, args, message):
    out, err = generate(*args, code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("k2mlx: ")
    assert message in err


def test_a_bar_shows_how_far_a_long_prompt_is():
    out = io.StringIO()
    bar = ProgressBar(out)
    bar(512, 1024)
    assert out.getvalue() == f"\rreading the prompt [{'#' * 15}{'.' * 15}] 512/1024 tokens"
    bar(1024, 1024)
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_short_prompt_has_no_bar():
    out = io.StringIO()
    ProgressBar(out)(100, 512)
    assert out.getvalue() == ""

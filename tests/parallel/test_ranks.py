"""Real ranks, started by mlx.launch on one machine: real processes, sockets and MLX's ring."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from k2mlx.generate.engine import Engine
from tests.folders import write_folder
from tests.parallel import program
from tests.parallel.test_pipeline import load
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")


def launch(size, *command, timeout=120.0):
    """What the ranks print, and the launcher's whole output for when it is not that."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1"}
    start = [LAUNCH, "-n", str(size), "--backend", "ring", "--starting-port", str(free_ports(size))]
    done = subprocess.run(
        [*start, "--", sys.executable, *command],
        capture_output=True, text=True, env=env, cwd=ROOT, timeout=timeout,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout, done.stdout + done.stderr


def ranks(job, counts):
    out, everything = launch(
        len(counts), "-m", "tests.parallel.program", job, ",".join(map(str, counts))
    )
    found = sorted(map(json.loads, out.splitlines()), key=lambda one: one["rank"])
    assert [one["rank"] for one in found] == list(range(len(counts))), everything
    return found


@pytest.fixture(scope="module")
def alone():
    with Engine(load, chunk=program.CHUNK) as engine:
        return program.answers(engine)


@pytest.mark.parametrize("counts", [[3, 2], [1, 4], [2, 2, 1], [1, 2, 1, 1]], ids=str)
def test_ranks_answer_as_one_machine_does(alone, counts):
    leader = ranks("answers", counts)[0]
    assert leader["said"] == alone["said"]
    assert leader["cached"] == alone["cached"] > 0


@pytest.mark.parametrize("counts", [[3, 2], [2, 2, 1]], ids=str)
def test_no_stage_idles_longer_than_the_pipeline_takes_to_fill(counts):
    """With S stages and C chunks of equal time each stage waits for at most S - 1 of them, if it
    begins a chunk as soon as it is done with the last and the stage before is done with this one.

    That is what is looked at: a busy machine makes single steps longer, not the order.
    """
    spans = [one["spans"] for one in ranks("schedule", counts)]
    assert [len(each) for each in spans] == [8] * len(counts)
    late, together = [], []
    for stage, chunks in enumerate(spans):
        for number, (begin, _) in enumerate(chunks):
            ready = [chunks[number - 1][1]] if number else []
            ready += [spans[stage - 1][number][1]] if stage else []
            late += [begin - max(ready)] if ready else []
            if stage and number < 7:
                before = spans[stage - 1][number + 1]
                together.append(min(chunks[number][1], before[1]) - max(begin, before[0]))
    assert median(late) < program.STEP / 2, spans
    assert median(together) > program.STEP / 2, spans


GENERATE = ("-m", "k2mlx", "generate", "--prompt", "hello", "--temperature", "0")


@pytest.mark.parametrize("size", [2, 4])
def test_tensor_mode_says_the_same(tmp_path, size):
    """By the command that a user types; test_tensor_ring.py compares logits."""
    wide = {"intermediate_size": 128, "moe_intermediate_size": 128}
    folder = write_folder(tmp_path / "wide", **wide, num_attention_heads=4)
    words = (*GENERATE, "--model", str(folder), "--max-tokens", "8", "--json", "--seed", "1")
    answers = []
    for ranks_, extra in ((1, ()), (size, ("--parallel", "tensor"))):
        out, everything = launch(ranks_, *words, *extra)
        assert out, everything
        answers.append(json.loads(out))
    assert answers[0]["text"] == answers[1]["text"]
    assert answers[0]["completion_tokens"] == answers[1]["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("size", "words", "says"),
    [
        (2, ("--parallel", "tensor"), "wanted a multiple of 64 for 2 machines"),
        (3, ("--parallel", "tensor"), "wanted 2 or 4"),
        (2, ("--split", "5,5"), "add up to 6 layers"),
        (2, ("--split", "6,0"), "wanted layers of each rank"),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(size, words, says):
    _, everything = launch(size, *GENERATE, "--model", "models/k2-nano", *words)
    assert "Traceback" not in everything, everything
    lines = [line for line in everything.splitlines() if line.startswith("k2mlx: ")]
    assert lines in (lines[:1], lines[:1] * size), everything  # or each rank, before they meet
    assert says in lines[0]


def test_all_ranks_loading_is_one_line(monkeypatch):
    """mlx.launch tells the size of its terminal, which it keeps to itself."""
    monkeypatch.setenv("COLUMNS", "100")
    everything = launch(2, *GENERATE, "--max-tokens", "2")[1]
    shown = [line for line in everything.splitlines() if line.startswith("loading")]
    assert shown, everything
    assert all(" of 32.7 MB, " in line for line in shown), shown  # both ranks' from the first on
    assert [line.startswith("loading 32.7 MB") for line in shown].index(True) == len(shown) - 1

"""Real ranks, started by mlx.launch on one machine: real processes, sockets and MLX's ring."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from statistics import median

import pytest

from k2mlx.generate.engine import Engine
from tests.parallel import program
from tests.parallel.test_pipeline import load

ROOT = Path(__file__).parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")
PORTS = count(20000 + os.getpid() % 200 * 50, 8)


def launch(size, *command, timeout=120.0):
    """What the ranks print, and the launcher's whole output for when it is not that."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1"}
    start = [LAUNCH, "-n", str(size), "--backend", "ring", "--starting-port", str(next(PORTS))]
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

"""Tensor mode between processes that mlx.launch starts, over MLX's ring."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.weights.load import load_model, save_model
from tests.parallel.shares import WIDE, answers, bytes_of, wide_model, worst
from tests.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
RANK = Path(__file__).with_name("tensor_rank.py")


def ring(folder: Path, out: Path, size: int, how: str) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Each rank's logits and facts. mlx.launch exits 0 whatever its ranks do: their files tell."""
    out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if how == "compiled":
        environment.pop("MLX_DISABLE_COMPILE", None)
    launch = str(Path(sys.executable).with_name("mlx.launch"))
    command = [launch, "-n", str(size), "--backend", "ring"]
    command += ["--starting-port", str(free_ports(size)), "--", sys.executable, str(RANK)]
    done = subprocess.run(
        [*command, str(folder), str(out), how],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    files = [out / f"{rank}.npz" for rank in range(size)]
    assert all(file.exists() for file in files), done.stdout + done.stderr
    ranks = []
    for file in files:
        with np.load(file) as arrays:
            logits = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
            ranks.append((logits, arrays["facts"]))
    return ranks


@pytest.mark.parametrize(
    ("size", "how"), [(2, "plain"), (4, "plain"), (2, "thread"), (2, "compiled"), (4, "compiled")]
)
def test_a_ring_answers_as_one_machine(tmp_path, size, how):
    if how == "compiled" and shutil.which("g++") is None:
        pytest.skip("needs g++, which MLX compiles for a CPU with")
    save_model(tmp_path / "model", wide_model(WIDE, 3))
    whole = load_model(tmp_path / "model", mx.float32)
    wanted = answers(whole, 1)
    ranks = ring(tmp_path / "model", tmp_path / "out", size, how)
    for got, (held, sums) in ranks:
        assert worst(got, wanted) <= 1e-5
        assert all(np.array_equal(a, b) for a, b in zip(got, ranks[0][0], strict=True))
        assert held < 0.8 * bytes_of(whole)
        # Two a layer in each of 5 chunks and 9 steps; a compiled step is traced for 1 and for 2.
        assert sums == 2 * WIDE.num_hidden_layers * (5 + (2 if how == "compiled" else 9))

"""Two workers, rounds in turn, medians and their ratio."""

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from k2mlx.errors import K2Error, MissingExtraError, RequestError

SIDES = ("k2mlx", "mlx-lm")
CHECK_TOKENS = 64
# Largest |difference| / largest |logit| over a prompt, both in float32.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Plan:
    """What to measure. Prompts are random ids, the same for both sides; decoding is greedy.

    prompt: tokens of the prompt. generate: tokens of the answer, after the prompt. rounds: timed
    ones, after one that is not. chunk: prompt tokens computed at a time, on both sides.
    """

    prompt: int = 512
    generate: int = 128
    rounds: int = 5
    chunk: int = 512

    def __post_init__(self) -> None:
        for name, least in (("prompt", 1), ("generate", 2), ("rounds", 1), ("chunk", 1)):
            if getattr(self, name) < least:
                raise RequestError(f"{name}: got {getattr(self, name)}, wanted {least} or more")


def compare(
    model: Path,
    plan: Plan,
    vocabulary: int,
    on_round: Callable[[int, str], None] = lambda number, side: None,
) -> Iterator[dict[str, Any]]:
    """Rows of `k2mlx bench`, one a case, when all rounds are done.

    Raises: MissingExtraError without mlx-lm; K2Error when a worker fails.
    """
    if importlib.util.find_spec("mlx_lm") is None:
        raise MissingExtraError("mlx-lm is not installed; pip install 'mlx-lm==0.32.2'")
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        check = [draw.randrange(vocabulary) for _ in range(CHECK_TOKENS)]
        workers = {side: Worker(side, model, plan.chunk, check, Path(folder)) for side in SIDES}
        try:
            about = {side: worker.receive() for side, worker in workers.items()}
            difference = _difference(*(workers[side].logits for side in SIDES))
            measured: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for number in range(plan.rounds + 1):
                tokens = [draw.randrange(vocabulary) for _ in range(plan.prompt)]
                for side in SIDES if number % 2 else reversed(SIDES):
                    on_round(number, side)
                    found = workers[side].ask({"tokens": tokens, "count": plan.generate})
                    if number:  # the first warms up
                        measured[side].append(found)
        finally:
            for worker in workers.values():
                worker.close()
    shared = _shared(model, plan, about, difference, measured)
    yield _row("prefill", "tokens/s", _values(measured, "prompt_seconds", plan.prompt), shared)
    yield _row("decode", "tokens/s", _values(measured, "decode_seconds", plan.generate - 1), shared)
    yield _row("memory", "bytes", _values(measured, "peak_memory"), shared)


class Worker:
    """A process that runs one engine; asked and answering in JSON lines."""

    def __init__(self, side: str, model: Path, chunk: int, check: list[int], folder: Path) -> None:
        self.side = side
        self.logits = folder / f"{side}.npy"
        order = {"model": str(model), "chunk": chunk, "check": check, "logits": str(self.logits)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "k2mlx.bench.worker", side, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one line, wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """The next line. Raises: K2Error with what the worker reports, or with how it ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise K2Error(
                f"bench: the {self.side} process ended with code {self._process.wait()};"
                " what it printed above says why"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise K2Error(f"bench: {self.side}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _difference(ours: Path, theirs: Path) -> float:
    a, b = np.load(ours), np.load(theirs)
    return float(np.abs(a - b).max() / np.abs(b).max())


def _values(
    measured: dict[str, list[dict[str, Any]]], key: str, tokens: int | None = None
) -> dict[str, list[float]]:
    """Each side's rounds: tokens a second where `tokens` were computed, else the value itself."""
    return {
        side: [tokens / found[key] if tokens else found[key] for found in rounds]
        for side, rounds in measured.items()
    }


def _row(
    case: str, unit: str, values: dict[str, list[float]], shared: dict[str, Any]
) -> dict[str, Any]:
    ours, theirs = (median(values[side]) for side in SIDES)
    ratio = ours / theirs if unit == "tokens/s" else theirs / ours
    row = {"case": case, "ratio": round(ratio, 4), "unit": unit, "k2mlx": ours, "mlx-lm": theirs}
    return row | {"all": values} | shared


def _shared(
    model: Path,
    plan: Plan,
    about: dict[str, dict[str, Any]],
    difference: float,
    measured: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    same = [a["text"] == b["text"] for a, b in zip(*measured.values(), strict=True)]
    return {
        "agree": difference <= TOLERANCE,
        "logit_difference": difference,
        "rounds_with_equal_tokens": f"{sum(same)} of {len(same)}",
        "model": model.name,
        "plan": asdict(plan),
        **about["k2mlx"],
        **about["mlx-lm"],
    }

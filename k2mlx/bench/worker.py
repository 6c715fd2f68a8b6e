"""One engine in a process of its own: `python -m k2mlx.bench.worker SIDE ORDER`.

ORDER is JSON: model, chunk, check (tokens whose logits go to the file `logits`). Prints a line
about itself, then answers each line {"tokens", "count"} with what generating took.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from k2mlx import __version__, blas
from k2mlx.generate import Engine, Sampling
from k2mlx.load import Loaded, load

Run = Callable[[list[int], int], dict[str, Any]]


def ours(order: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """k2mlx as everything else uses it: through the engine and its queue."""
    about: dict[str, Any] = {}

    def load_and_check() -> Loaded:
        loaded = load(order["model"])
        _save_logits(order, _in_float32(loaded).model)
        about.update(_about(loaded))
        return loaded

    engine = Engine(load_and_check, chunk=order["chunk"], reuse=False)
    assert engine.info

    def run(tokens: list[int], count: int) -> dict[str, Any]:
        sampling = Sampling(temperature=0, max_tokens=count)
        generation = engine.submit(tokens, sampling, stop_ids=())
        text = list(generation)
        stats = generation.stats
        return {
            "prompt_seconds": stats.first_token_seconds,
            "decode_seconds": stats.seconds - stats.first_token_seconds,
            "peak_memory": stats.peak_memory,
            "text": text,
        }

    return run, about


def theirs(order: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """mlx-lm's own loop, on its own model with our weights."""
    from mlx_lm.generate import generate_step

    from k2mlx.bench.peer import build

    loaded = load(order["model"], as_stored=True)
    _save_logits(order, build(_in_float32(loaded), exact=True))
    model = build(loaded)
    del loaded
    mx.clear_cache()

    def run(tokens: list[int], count: int) -> dict[str, Any]:
        mx.reset_peak_memory()
        began = time.perf_counter()
        steps = generate_step(
            mx.array(tokens), model, max_tokens=count, prefill_step_size=order["chunk"]
        )
        text, times = [], []
        for token, _ in steps:
            text.append(int(token))
            times.append(time.perf_counter())
        return {
            "prompt_seconds": times[0] - began,
            "decode_seconds": times[-1] - times[0],
            "peak_memory": mx.get_peak_memory(),
            "text": text,
        }

    return run, {"mlx_lm_version": version("mlx-lm")}


def _about(loaded: Loaded) -> dict[str, Any]:
    quantization = loaded.config.quantization
    return {
        "dtype": str(loaded.model.model.norm.weight.dtype).removeprefix("mlx.core."),
        "quantization": asdict(quantization) if quantization else None,
        "device": str(mx.default_device()),
        "blas": blas.status(),
        "k2mlx_version": __version__,
        "mlx_version": version("mlx"),
    }


def _in_float32(loaded: Loaded) -> Loaded:
    """The model to compare with: in 16 bits, rounding alone would flip experts."""
    same = loaded.model.model.norm.weight.dtype == mx.float32
    return loaded if same else load(loaded.path, mx.float32, as_stored=True)


def _save_logits(order: dict[str, Any], model: Callable[[mx.array], mx.array]) -> None:
    np.save(order["logits"], np.array(model(mx.array([order["check"]]))))


def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not look like one

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        run, about = {"k2mlx": ours, "mlx-lm": theirs}[sys.argv[1]](json.loads(sys.argv[2]))
        answer(about)
        for line in sys.stdin:
            question = json.loads(line)
            answer(run(question["tokens"], question["count"]))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()

"""The folder of a run: whole checkpoints only, the newest named by the file `latest`.

    OUT/config.json, metrics.jsonl, loss.png
    OUT/latest                       the name of the newest checkpoint
    OUT/step-00001200/               model.safetensors, optimizer.safetensors (float32), state.json

A checkpoint is written aside and renamed when whole, then `latest` is replaced: a kill at any
moment leaves the one before. The data's cursor is the stage and step in state.json, since batches
are a function of them.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError

Arrays = dict[str, mx.array]


@dataclass
class State:
    """Where a run is: optimiser steps in all, the stage, steps and seconds spent in that stage."""

    step: int = 0
    stage: str = ""
    stage_step: int = 0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    seed: int = 0
    done: bool = False


def save(out: Path, params: Arrays, optimizer: Arrays, state: State, keep: int) -> Path:
    """Write OUT/step-N, point `latest` at it, remove all but the newest `keep`; its path."""
    name = f"step-{state.step:08d}"
    aside = out / f".{name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    mx.save_safetensors(str(aside / "model.safetensors"), params)
    mx.save_safetensors(str(aside / "optimizer.safetensors"), optimizer)
    (aside / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    final = out / name
    shutil.rmtree(final, ignore_errors=True)  # a stage that ends where the last save was
    os.rename(aside, final)
    write_whole(out / "latest", name + "\n")
    for old in sorted(out.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def write_whole(path: Path, content: str) -> None:
    """Replace a small file in one step."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(content, encoding="utf-8")
    os.replace(aside, path)


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint of a run folder, or None."""
    pointer = out / "latest"
    if not pointer.is_file():
        return None
    path = out / pointer.read_text(encoding="utf-8").strip()
    if not (path / "state.json").is_file():
        raise CheckpointError(
            f"{pointer}: names {path.name}, which is not there; write the name of a step-*"
            " folder into it"
        )
    return path


def load(path: Path) -> tuple[Arrays, Arrays, State]:
    """Parameters, optimiser state and place of a checkpoint; CheckpointError if it is not whole."""
    try:
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        return (
            load_arrays(path / "model.safetensors"),
            load_arrays(path / "optimizer.safetensors"),
            state,
        )
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({error}); write the name of another step-* folder"
            f" into {path.parent / 'latest'}"
        ) from None


def load_arrays(path: Path) -> Arrays:
    """The tensors of one safetensors file. Raises CheckpointError."""
    try:
        loaded = mx.load(str(path))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give another checkpoint"
        ) from None
    assert isinstance(loaded, dict)
    return loaded

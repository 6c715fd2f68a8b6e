"""Which weights a model folder holds, told in milliseconds also for 600 GB."""

from __future__ import annotations

import hashlib
from pathlib import Path

from k2mlx.config import ModelConfig
from k2mlx.weights.files import weight_files
from k2mlx.weights.hashes import fingerprint
from k2mlx.weights.names import is_held


def model_identity(folder: Path, held: range | None = None) -> str:
    """A hash that changes when the weights or the config do.

    It is over config.json and, of each file of weights, name, size, time of the last change, the
    safetensors header and 4 samples of 4 kB. The header tells another architecture or precision,
    the samples another training of the same one (which changes nearly every byte), the time an edit
    of a few tensors. Reading everything would take minutes; copying a folder without its times only
    makes the cache start anew. held: only the files of these layers count.

    Raises: CheckpointError for a folder without weights, OSError.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in _files(folder, held):
        modified = path.stat().st_mtime_ns
        digest.update(f"\n{path.name} {modified} {fingerprint(path)}\n".encode())
    return digest.hexdigest()


def _files(folder: Path, held: range | None) -> list[Path]:
    if held is None:
        return weight_files(folder)
    layers = ModelConfig.load(folder).num_hidden_layers

    def wanted(name: str) -> bool:
        return is_held(name.removeprefix("language_model."), held, layers)

    return weight_files(folder, wanted)

"""Which weights a model folder holds, told in milliseconds also for 600 GB."""

from __future__ import annotations

import hashlib
from pathlib import Path

from k2mlx.weights.files import MAX_HEADER, weight_files

SAMPLES = 4  # places in each file that are looked at
SAMPLE = 4096  # bytes


def model_identity(folder: Path) -> str:
    """A hash that changes when the weights or the config do.

    It is over config.json and, of each file of weights, name, size, time of the last change, the
    safetensors header and 4 samples of 4 kB. The header tells another architecture or precision,
    the samples another training of the same one (which changes nearly every byte), the time an edit
    of a few tensors. Reading everything would take minutes; copying a folder without its times only
    makes the cache start anew.

    Raises: CheckpointError for a folder without weights, OSError.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in weight_files(folder):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER)
            digest.update(file.read(length))
            for number in range(1, SAMPLES + 1):
                file.seek(max(0, status.st_size * number // SAMPLES - SAMPLE))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()

"""Hashes of files, as manifests and hubs name them. Without MLX: `k2mlx pull` needs none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 20
MAX_HEADER = 100_000_000  # bytes of a safetensors header
SAMPLES = 4  # places in a file that are looked at
SAMPLE = 4096  # bytes


def hash_file(path: Path, kind: str, each: Callable[[int], None] = lambda size: None) -> str:
    """`sha256:DIGEST` of a file, or `git:DIGEST`, the sha1 that git names its content by.

    `each` is told the size of each block that was read; what it raises ends the work.
    """
    hasher = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        hasher.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            each(len(block))
            hasher.update(block)
    return f"{kind}:{hasher.hexdigest()}"


def fingerprint(path: Path) -> str:
    """A hash of a safetensors file's size, header and 4 samples, told in milliseconds also for
    600 GB: the header tells another architecture or precision, the samples another training of the
    same one, which changes nearly every byte."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER)
        digest.update(file.read(length))
        for number in range(1, SAMPLES + 1):
            file.seek(max(0, size * number // SAMPLES - SAMPLE))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()

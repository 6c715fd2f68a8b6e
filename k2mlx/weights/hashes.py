"""Hashes of files, as manifests and hubs name them. Without MLX: `k2mlx pull` needs none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 20


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

"""What ranks compare before they load anything: versions, and that they have the same model.

A rank needs only the files of its own layers, so files that one has and another lacks are no
difference; those that both have must be alike.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import ClusterError
from ..weights.hashes import fingerprint
from .split import Member

VERSIONS = {"k2mlx": "k2mlx", "mlx": "MLX", "python": "Python"}
DESCRIPTION = ("config.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json")


def facts(folder: Path, member: Member) -> dict[str, Any]:
    """Of this rank, for JSON: a few kilobytes."""
    described = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
        for name in DESCRIPTION
        if (folder / name).is_file()
    }
    weights = {path.name: fingerprint(path) for path in sorted(folder.glob("*.safetensors"))}
    return {
        "k2mlx": version("k2mlx"),
        "mlx": version("mlx"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "member": asdict(member),
        "description": described,
        "weights": weights,
    }


def check_facts(everyone: Sequence[dict[str, Any]]) -> None:
    """ClusterError for the first difference between rank 0 and another, with what each has."""
    first, *others = everyone
    for rank, other in enumerate(others, 1):
        names = f"rank {rank} ({other['member']['host']})", f"rank 0 ({first['member']['host']})"
        for key, what in VERSIONS.items():
            if other[key] != first[key]:
                raise ClusterError(
                    f"{names[0]} has {what} {other[key]}, {names[1]} {first[key]}; wanted the same;"
                    " install one version on both"
                )
        for file in sorted(first["description"].keys() | other["description"].keys()):
            _compare(file, first["description"].get(file), other["description"].get(file), names)
        for file in sorted(first["weights"].keys() & other["weights"].keys()):
            _compare(file, first["weights"][file], other["weights"][file], names)


def _compare(file: str, mine: str | None, other: str | None, names: tuple[str, str]) -> None:
    if mine != other:
        raise ClusterError(
            f"{file}: got {other or 'none'} on {names[0]}, {mine or 'none'} on {names[1]}; wanted"
            " the same model; copy or pull it again"
        )

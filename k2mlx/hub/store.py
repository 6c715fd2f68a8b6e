"""The models on this machine: what each is, how big, whether complete; and removing one."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..fields import parse_json
from ..home import PARTIAL, PULL_FILE, bundled, home_path, locked, pulled_models, write_private


@dataclass
class Record:
    """pull.json: where a folder came from, and what is verified to be in it.

    files: name -> {"size": bytes, "hash": ...}, for an incomplete folder what it is to hold.
    parts: {"split": [31, 30], "rank": 0} for every rank whose files are here; whole: all are.
    """

    repo: str
    commit: str
    asked: str | None = None
    complete: bool = False
    whole: bool = False
    parts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """A folder's record, or None where there is none that can be read."""
        try:
            record = cls(**parse_json((folder / PULL_FILE).read_bytes()))
            record.state(), sum(file["size"] for file in record.files.values())  # their types
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return record

    def write(self, folder: Path) -> None:
        write_private(folder / PULL_FILE, json.dumps(vars(self), indent=1) + "\n")

    def state(self) -> str:
        """`complete`, `partial`, or whose part this is: `rank 0 of 31,30`."""
        if not self.complete or self.whole:
            return "complete" if self.complete else "partial"
        words = [f"rank {p['rank']} of {','.join(map(str, p['split']))}" for p in self.parts]
        return " and ".join(words)


@dataclass(frozen=True)
class StoredModel:
    """One model folder. kind: bundled, pulled, or own for any other under the home folder."""

    name: str
    kind: str
    state: str
    format: str
    bytes: int
    revision: str | None
    last_read: str | None  # of its weights, as far as the file system notes that: ISO date
    path: str


def models_folder() -> Path:
    return home_path() / "models"


def stored_models() -> list[StoredModel]:
    """The bundled models, then those under the home folder, each kind by name."""
    mine = _model_folders(models_folder())
    return [
        *(_stored(path, "bundled") for path in _model_folders(bundled("models"))),
        *(_stored(path, "pulled" if (path / PULL_FILE).is_file() else "own") for path in mine),
    ]


def remove_model(name: str) -> int:
    """Remove a model under the home folder; returns the bytes that were freed.

    name: as `stored_models` lists it, or as `--model` takes it. A link is removed, never what it
    points to. Raises RequestError for a bundled model, a path, or a name that could mean several.
    """
    path = removable(name)
    freed = _size(path)
    if path.is_symlink():
        path.unlink()
        return freed
    with locked(path):
        shutil.rmtree(path)
    return freed


def removable(name: str) -> Path:
    """The folder that `remove_model` would remove; raises as that does."""
    place = models_folder()
    names = {path.name for path in _model_folders(place)}
    if name in names:
        return place / name
    found = pulled_models(name) + pulled_models(name, partial=True)
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(sorted(path.name for path in found))
        raise RequestError(f"{name}: could be {several}; name one")
    if name in {path.name for path in _model_folders(bundled("models"))}:
        raise RequestError(f"{name}: came with k2mlx and is not removed; uninstall k2mlx instead")
    raise RequestError(f"{name}: not a model under {place}; see 'k2mlx models list'")


def format_words(folder: Path) -> str:
    """What a folder's config.json says of its weights: `int4`, `fp8`, `mlx 4 bit`, `bfloat16`."""
    try:
        config = parse_json((folder / "config.json").read_bytes())
        text = config.get("text_config") or config
        spec = config.get("quantization_config") or text.get("quantization_config") or {}
        if spec.get("quant_method") == "compressed-tensors":
            groups = spec["config_groups"].values()
            return "int" + "/".join(sorted({str(group["weights"]["num_bits"]) for group in groups}))
        if spec.get("quant_method"):
            return str(spec["quant_method"])
        if mlx := config.get("quantization") or spec:
            rules = [mlx, *(value for value in mlx.values() if isinstance(value, dict))]
            bits = sorted({rule["bits"] for rule in rules if "bits" in rule})
            kind = "mlx" if "bits" in mlx else "k2mlx"  # one rule for all, or one a kind of matrix
            return f"{kind} {'/'.join(map(str, bits))} bit"
        return str(text.get("torch_dtype") or text.get("dtype") or "unquantised")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unknown"


def _model_folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    marks = ("config.json", PULL_FILE)
    return sorted(p for p in place.iterdir() if any((p / mark).is_file() for mark in marks))


def _stored(path: Path, kind: str) -> StoredModel:
    record = Record.read(path) if kind == "pulled" else None
    weights = sorted(path.glob("*.safetensors"))
    state = "complete" if weights else "no weights"
    if record:
        state = record.state()
    if path.name.endswith(PARTIAL):
        wanted = sum(file["size"] for file in record.files.values()) if record else 0
        state = f"partial, {_size(path) * 100 // wanted} %" if wanted else "partial"
    read = datetime.fromtimestamp(weights[0].stat().st_atime).date() if weights else None
    return StoredModel(
        name=path.name,
        kind=kind,
        state=state,
        format=format_words(path),
        bytes=_size(path),
        revision=record.commit if record else None,
        last_read=read.isoformat() if read else None,
        path=str(path),
    )


def _size(path: Path) -> int:
    """Bytes of a file or of everything below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )

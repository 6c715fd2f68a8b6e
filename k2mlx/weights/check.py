"""Whether a model folder is whole: config, names and shapes, index, hashes, values, tokenizer.

Nothing is loaded as a model, and no pickle is ever read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig
from ..errors import CheckpointError, K2Error
from ..fields import parse_json
from ..home import PULL_FILE
from .convert import MANIFEST
from .files import Stored, read_folder
from .hashes import hash_file
from .source import Source


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. `ok` None: it could not be, which is no fault."""

    what: str
    ok: bool | None
    note: str = ""


def check_weights(
    folder: Path,
    *,
    deep: bool = True,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Iterator[Finding]:
    """Check one thing after the other; a fault ends what depends on it.

    deep: read every byte, for the manifest's hashes and for NaN and infinity in scales and in
    floating point values; report(bytes done, bytes in all, file).
    """
    try:
        config = ModelConfig.load(folder)
        yield Finding("config.json", True, f"{config.checkpoint_format}, {config.chat_format}")
        tensors = read_folder(folder)
        files = {tensor.path for tensor in tensors.values()}
        yield Finding("headers", True, f"{len(tensors):,} tensors in {len(files)} files")
        source = Source(folder, config)
        yield Finding("tensors", True, _words(source))
    except K2Error as error:
        yield Finding("weights", False, str(error))
        return
    except OSError as error:
        yield Finding("weights", False, f"{error.filename}: {error.strerror}")
        return
    manifests = [folder / name for name in (MANIFEST, PULL_FILE) if (folder / name).is_file()]
    if not deep:
        yield Finding("hashes and values", None, "not read")
        return
    for manifest in manifests:
        yield from _check_hashes(folder, manifest, report)
    if not manifests:
        yield Finding("hashes", None, "nothing to compare with")
    try:
        _check_values(tensors, report)
        yield Finding("values", True, "no NaN, no infinity")
    except CheckpointError as error:
        yield Finding("values", False, str(error))


def _words(source: Source) -> str:
    forms = Counter(source.form(path) for path in source.specs())
    return ", ".join(f"{count} {form}" for form, count in sorted(forms.items()))


def _check_hashes(
    folder: Path, manifest: Path, report: Callable[[int, int, str], None]
) -> Iterator[Finding]:
    try:
        files = parse_json(manifest.read_bytes())["files"]
        wanted = {name: (str(entry["hash"]), int(entry["size"])) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        yield Finding("hashes", False, f"{manifest}: not a manifest; convert or pull again")
        return
    done, total = 0, sum(size for _, size in wanted.values())

    def read(size: int) -> None:
        nonlocal done
        done += size
        report(done, total, "hashes")

    for name, (hashed, size) in wanted.items():
        path, kind = folder / name, hashed.partition(":")[0]
        if Path(name).name != name or kind not in ("sha256", "git"):
            yield Finding("hashes", False, f"{manifest}: {name!r}, {hashed!r}: no file's hash")
            return
        there = path.is_file() and path.stat().st_size == size
        if not there or hash_file(path, kind, read) != hashed:
            yield Finding("hashes", False, f"{path}: not what was written; make it again")
            return
    yield Finding("hashes", True, f"{len(wanted)} files are what was written")


def _check_values(tensors: dict[str, Stored], report: Callable[[int, int, str], None]) -> None:
    values = [tensor for tensor in tensors.values() if tensor.has_floats]
    done, total = 0, sum(tensor.nbytes for tensor in values)
    for tensor in sorted(values, key=lambda t: (t.path, t.offset)):
        if not tensor.is_finite():
            raise tensor.not_finite()
        done += tensor.nbytes
        report(done, total, "values")

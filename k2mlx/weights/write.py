"""safetensors files written tensor by tensor: aside, hashed on the way, renamed when whole."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from .files import BITS, UNSIGNED

ASIDE = ".tmp"  # ends the names of files that are not whole


@dataclass(frozen=True)
class Planned:
    """A tensor that a file will hold."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


def write_safetensors(
    path: Path, planned: list[Planned], values: Iterable[mx.array | np.ndarray]
) -> str:
    """Write `values`, one for each of `planned` and dropped before the next is asked for; returns
    the file's SHA-256. Values have the planned width and shape; their bits are written as they
    are. Raises CheckpointError when the disk is full; then nothing stands under `path`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for tensor in planned:
        span = [offset, offset + tensor.nbytes]
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span,
        }  # fmt: skip
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with _aside(path, offset) as file:
        for part in (struct.pack("<Q", len(text)), text):
            digest.update(part)
            file.write(part)
        for tensor, value in zip(planned, values, strict=True):
            data = _bytes(tensor, value)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON aside and rename it. Raises CheckpointError when the disk is full."""
    text = (json.dumps(content, indent=1) + "\n").encode()
    with _aside(path, len(text)) as file:
        file.write(text)


@contextmanager
def _aside(path: Path, size: int) -> Generator[BinaryIO]:
    """A file that becomes `path` once it is whole and on the disk; nothing of it stays otherwise.

    Its name is this process's own: one that was left behind by a kill cannot write into it.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}{ASIDE}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.filename is not None:
            raise
        what = error.strerror  # a file too large for its file system, a quota, a broken disk
        if error.errno == errno.ENOSPC:
            what = "the disk is full"
        raise CheckpointError(
            f"{path}: {what}, wanted {size:,} bytes for this file; make room and run the same "
            "command again"
        ) from None


def check_room(folder: Path, wanted: int) -> None:
    """Raises CheckpointError where the disk of `folder` has fewer bytes than that."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise CheckpointError(
            f"{folder}: {free / 1e9:.1f} GB free, wanted {wanted / 1e9:.1f} GB; make room or "
            "write to another disk"
        )


def _bytes(tensor: Planned, value: mx.array | np.ndarray) -> memoryview:
    if isinstance(value, mx.array):
        bits = UNSIGNED[BITS[tensor.dtype]]
        if bits.size != value.dtype.size:
            raise ValueError(f"{tensor.name}: got {value.dtype}, planned {tensor.dtype}")
        value = mx.contiguous(value).view(bits)
        mx.eval(value)
        value = np.array(value, copy=False)
    if value.nbytes != tensor.nbytes or value.shape != tensor.shape:
        raise ValueError(f"{tensor.name}: got {value.shape}, planned {tensor.shape}")
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data

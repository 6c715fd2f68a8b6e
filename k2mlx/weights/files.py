"""The safetensors files of a model folder: found, their headers checked before any value is read,
and values read straight into the memory where they stay.

Source: the safetensors format, an 8-byte little-endian header length, a JSON header, then the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from ..fields import parse_json
from .hashes import MAX_HEADER

INDEX = "model.safetensors.index.json"
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
DTYPES = {
    "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32, "U32": mx.uint32, "I32": mx.int32,
    "I64": mx.int64, "U8": mx.uint8, "F8_E4M3": mx.uint8,
}  # fmt: skip
EXPONENTS = {"BF16": np.uint16(0x7F80), "F16": np.uint16(0x7C00), "F32": np.uint32(0x7F800000)}
LOOK = 1 << 20  # values looked at at a time
CHUNK = 1 << 26  # bytes read at a time to look at
UNSIGNED = {8: mx.uint8, 16: mx.uint16, 32: mx.uint32, 64: mx.uint64}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, or some rows of one: where its bytes are."""

    name: str
    path: Path
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8

    def rows(self, begin: int, end: int) -> Stored:
        """Rows [begin, end) along the first axis."""
        row = self.nbytes // max(self.shape[0], 1)
        return replace(self, shape=(end - begin, *self.shape[1:]), offset=self.offset + begin * row)

    def __getitem__(self, index: int) -> Stored:
        """One row, without its axis."""
        row = self.rows(index, index + 1)
        return replace(row, shape=row.shape[1:])

    @property
    def has_floats(self) -> bool:
        return self.dtype in EXPONENTS or self.dtype == "F8_E4M3"

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite. Peak memory: CHUNK bytes, or a row."""
        if not self.has_floats:
            return True
        if not self.shape:
            return replace(self, shape=(1,)).is_finite()
        step = max(CHUNK * self.shape[0] // max(self.nbytes, 1), 1)
        for begin in range(0, self.shape[0], step):
            part = self.rows(begin, min(begin + step, self.shape[0])).read()
            if self.dtype == "F8_E4M3":
                part = mx.from_fp8(part, mx.bfloat16)
            if not mx.isfinite(part).all().item():
                return False
        return True

    def not_finite(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {self.name} holds NaN or infinity; fetch it again, or convert it again "
            "from a whole source"
        )

    def read(self) -> mx.array:
        """Into an array of its own; F8_E4M3 as uint8."""
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: {self.name}: got values of {self.dtype}, wanted one of "
                f"{', '.join(DTYPES)}"
            )
        out = Buffer(self.shape, self.dtype)
        self.read_into(out.memory)
        return out.array()

    def read_into(self, out: np.ndarray) -> None:
        """Into contiguous memory of its size, whatever that memory's dtype."""
        view = out.reshape(-1).view(np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            done = 0
            while done < self.nbytes:
                got = file.readinto(view[done:].data)
                if not got:
                    raise CheckpointError(
                        f"{self.path}: {self.name}: got {done} bytes, wanted {self.nbytes}; "
                        "it is cut off, fetch it again"
                    )
                done += got


class Buffer:
    """Memory for an array of a safetensors type, to be written through NumPy (`memory`, unsigned
    integers of the type's width) and then to be an `array` without a copy, where MLX's memory is
    the CPU's."""

    def __init__(self, shape: tuple[int, ...], dtype: str):
        self.dtype = dtype
        unsigned = UNSIGNED[BITS[dtype]]
        self._array: mx.array | None = None
        if mx.default_device() == mx.cpu or mx.metal.is_available():
            self._array = mx.zeros(shape, unsigned)
            mx.eval(self._array)
            self.memory = np.array(self._array, copy=False)
        else:
            self.memory = np.empty(shape, str(unsigned).removeprefix("mlx.core."))

    def put(self, begin: int, value: mx.array) -> None:
        """Rows from `begin` on, of any type."""
        bits = value.astype(DTYPES[self.dtype]).view(UNSIGNED[BITS[self.dtype]])
        self.memory[begin : begin + len(value)] = np.array(bits, copy=False)

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite, by the bits of its exponent."""
        exponent = EXPONENTS[self.dtype]
        bits = self.memory.reshape(-1)
        parts = (bits[i : i + LOOK] for i in range(0, bits.size, LOOK))
        return not any(((part & exponent) == exponent).any() for part in parts)

    def array(self) -> mx.array:
        whole = self._array if self._array is not None else mx.array(self.memory)
        return whole.view(DTYPES[self.dtype])


Wanted = Callable[[str], bool]  # a tensor by its name


def weight_files(folder: Path, wanted: Wanted | None = None) -> list[Path]:
    """The *.safetensors of a model folder, by its index where it has one. wanted: only those that
    hold a tensor of this kind; without an index nobody can tell.

    Raises CheckpointError when there are none, or when the index names one that is not there.
    """
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise CheckpointError(
                f"{folder}: has no weights, only a description; wanted model*.safetensors. "
                "Copy the checkpoint's files there, or use models/k2-nano, which comes with k2mlx."
            )
        return files
    where = _weight_map(index)
    names = sorted({file for name, file in where.items() if wanted is None or wanted(name)})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: got file {name!r}, wanted NAME.safetensors inside the folder"
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: missing, and the index names it; fetch it again"
            )
    return [folder / name for name in names]


def read_folder(folder: Path, wanted: Wanted | None = None) -> dict[str, Stored]:
    """Every tensor of a model folder by name, or every wanted one, all headers checked. Files that
    hold none that is wanted need not be there.

    Raises CheckpointError for a damaged file, a tensor that stands twice, or an index that says
    something else than the files.
    """
    tensors: dict[str, Stored] = {}
    for path in weight_files(folder, wanted):
        header = read_header(path)
        if twice := tensors.keys() & header.keys():
            raise CheckpointError(f"{path}: {min(twice)} is in two files; fetch the folder again")
        tensors |= header
    if (index := folder / INDEX).is_file():
        for name, file in _weight_map(index).items():
            if wanted is not None and not wanted(name):
                continue
            if name not in tensors or tensors[name].path.name != file:
                raise CheckpointError(
                    f"{index}: {name} is not in {file}, where the index has it; fetch both again"
                )
    return {name: tensor for name, tensor in tensors.items() if wanted is None or wanted(name)}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        where = parse_json(index.read_bytes())["weight_map"]
        return {name: os.fspath(file) for name, file in where.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index}: got {type(error).__name__}, wanted JSON with weight_map; fetch it again"
        ) from None


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name, every offset checked against the file's length.

    Raises CheckpointError for a file that is cut off, overlapping or no safetensors at all.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path}: got {size} bytes with a header of {length}, wanted a whole safetensors "
                "file; fetch it again"
            )
        try:
            header = json.loads(file.read(length), object_pairs_hook=_without_twins)
            entries = {k: _entry(v) for k, v in header.items() if k != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: its header is not safetensors ({error!r}); fetch it again"
            ) from None
    end = 0
    for name, (dtype, shape, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        wanted = math.prod(shape) * BITS.get(dtype, 0) // 8
        if dtype not in BITS or begin < end or stop - begin != wanted:
            raise CheckpointError(
                f"{path}: {name}: got {dtype} {list(shape)} at bytes {begin} to {stop}, wanted "
                f"{wanted} bytes after {end}; fetch it again"
            )
        end = stop
    if end > size - 8 - length:
        raise CheckpointError(
            f"{path}: got {size} bytes, wanted {end + 8 + length}; it is cut off, fetch it again"
        )
    return {
        name: Stored(name, path, dtype, shape, 8 + length + begin)
        for name, (dtype, shape, begin, _) in entries.items()
    }


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} stands twice")
    return found


def _entry(value: dict) -> tuple[str, tuple[int, ...], int, int]:
    begin, stop = value["data_offsets"]
    shape = tuple(value["shape"])
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, stop)):
        raise ValueError(f"got shape {shape} at {begin} to {stop}")
    return str(value["dtype"]), shape, begin, stop

"""The safetensors files of a model folder: found, and their headers checked before anything is
mapped.

Source: the safetensors format, an 8-byte little-endian header length, a JSON header, then the data.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from ..errors import CheckpointError

MAX_HEADER = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


def weight_files(folder: Path) -> list[Path]:
    """The *.safetensors of a model folder, by its index where it has one.

    Raises CheckpointError when there are none, or when the index names one that is not there.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise CheckpointError(
                f"{folder}: has no weights, only a description; wanted model*.safetensors. "
                "Copy the checkpoint's files there, or use models/k2-nano, which comes with k2mlx."
            )
        return files
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index}: got {type(error).__name__}, wanted JSON with weight_map; fetch it again"
        ) from None
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: got file {name!r}, wanted a name inside the folder")
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: missing, and the index names it; fetch it again"
            )
    return [folder / name for name in names]


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name -> (dtype, shape) of one file, with every offset checked against the file's length.

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
            header = json.loads(file.read(length))
            entries = {k: _entry(v) for k, v in header.items() if k != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    return {name: entry[:2] for name, entry in entries.items()}


def _entry(value: dict) -> tuple[str, tuple[int, ...], int, int]:
    begin, stop = value["data_offsets"]
    shape = tuple(value["shape"])
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, stop)):
        raise ValueError(f"got shape {shape} at {begin} to {stop}")
    return str(value["dtype"]), shape, begin, stop

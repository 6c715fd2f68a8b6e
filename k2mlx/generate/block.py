"""One block of kept rows as a file: a safetensors file with the latent rows of 256 tokens.

    name       a hash over the model and form, the tokens of all blocks before, and its own tokens;
               so a name says what is in the file, and blocks that conversations share are one file
    tensors    LAYER.PART: what LatentCache.export gave, axis 1 is the position
    metadata   identity, previous (the block before), tokens, and crc32 over header and tensors

CRC-32 because it has to tell damage, not forgery (the folder is its owner's alone), at the speed of
a disk: measured 2.0 GiB/s on one core, BLAKE2b 0.5, SHA-256 1.1. A file whose name was copied or
whose content is another block's fails by its metadata.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.weights.files import BITS, DTYPES, UNSIGNED

BLOCK = 256  # tokens: 18 MB of K2's rows, of which a disk reads a hundred a second
FORMAT = "k2mlx prefix 1"
NAMES = {dtype: name for name, dtype in DTYPES.items() if not name.startswith("F8")}
NO_CRC = "00000000"

Parts = dict[str, mx.array]


class Label(NamedTuple):
    """What a block holds. identity: of model and form; previous: the name of the block before."""

    name: str
    identity: str
    previous: str
    tokens: tuple[int, ...]

    @property
    def metadata(self) -> dict[str, str]:
        tokens = " ".join(map(str, self.tokens))
        return {
            "format": FORMAT, "identity": self.identity, "previous": self.previous,
            "tokens": tokens, "crc32": NO_CRC,
        }  # fmt: skip


class Host(NamedTuple):
    """An array in main memory. data: unsigned integers of the width of `dtype` (safetensors'
    name), because NumPy has no bfloat16."""

    dtype: str
    data: np.ndarray


def labels(identity: str, tokens: np.ndarray) -> list[Label]:
    """The labels of all whole blocks of tokens."""
    ids = tokens.astype("<i4")
    previous = hashlib.blake2b(f"{FORMAT}\n{identity}".encode(), digest_size=16).hexdigest()
    found = []
    for index in range(len(ids) // BLOCK):
        own = ids[index * BLOCK : (index + 1) * BLOCK]
        digest = hashlib.blake2b(previous.encode() + own.tobytes(), digest_size=16)
        found.append(Label(digest.hexdigest(), identity, previous, tuple(own.tolist())))
        previous = found[-1].name
    return found


def export_block(cache: Sequence[LatentCache], start: int) -> dict[str, Host]:
    """The rows of the positions start .. start + BLOCK of all layers, copied off the device."""
    parts = {
        f"{layer}.{name}": part
        for layer, one in enumerate(cache)
        for name, part in one.export(start, start + BLOCK).items()
    }
    names = {key: NAMES[part.dtype] for key, part in parts.items()}
    bits = {key: part.view(UNSIGNED[BITS[names[key]]]) for key, part in parts.items()}
    mx.eval(bits)
    return {key: Host(names[key], np.array(part)) for key, part in bits.items()}


def encode(label: Label, tensors: dict[str, Host]) -> list[memoryview]:
    """The file, in pieces to be written one after another."""
    header: dict[str, object] = {"__metadata__": label.metadata}
    position = 0
    for key, (dtype, data) in tensors.items():
        span = [position, position + data.nbytes]
        header[key] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": span}
        position = span[1]
    text = _dump(header)
    crc = zlib.crc32(text)
    pieces = [host.data.reshape(-1).view(np.uint8).data for host in tensors.values()]
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    header["__metadata__"] = {**label.metadata, "crc32": f"{crc:08x}"}
    text = _dump(header)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


def decode(label: Label, content: np.ndarray) -> dict[str, Host] | None:
    """The tensors in a file's bytes (uint8); None unless it is exactly the block of that label."""
    try:
        end = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:end].tobytes())
        found = header["__metadata__"]
        crc, found["crc32"] = found["crc32"], NO_CRC
        if found != label.metadata:
            return None
        if crc != f"{zlib.crc32(content[end:].data, zlib.crc32(_dump(header))):08x}":
            return None
        del header["__metadata__"]
        return {key: _tensor(entry, content[end:]) for key, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def join_blocks(blocks: Sequence[dict[str, Host]]) -> list[Parts]:
    """Blocks that follow each other as the parts of each layer, for LatentCache.extend."""
    layers: list[Parts] = [{} for _ in {key.partition(".")[0] for key in blocks[0]}]
    for key, (dtype, _) in blocks[0].items():
        layer, _, name = key.partition(".")
        whole = mx.array(np.concatenate([block[key].data for block in blocks], axis=1))
        layers[int(layer)][name] = whole.view(DTYPES[dtype])
    return layers


def _tensor(entry: dict, data: np.ndarray) -> Host:
    begin, stop = entry["data_offsets"]
    unsigned = np.dtype(f"u{BITS[entry['dtype']] // 8}")
    return Host(entry["dtype"], data[begin:stop].view(unsigned).reshape(entry["shape"]))


def _dump(header: dict) -> bytes:
    """JSON, padded so that the tensors begin at a multiple of 8 bytes."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)

"""What attention remembers of the tokens so far: one latent vector and one rotary key each.

K2 keeps C + R = kv_lora_rank + qk_rope_head_dim = 576 values a token a layer for all 64 heads
together, in one of two forms:
  16  as they are, in the model's own type: one array of rows [B, S, C + R]
  8   the latent part in 8 bits, groups of 64 with a scale and a bias; the rotary key, through which
      all positions are told apart, in the model's type: 58 % of the bytes

Shape letters: B sequences, S positions, L new ones, C kv_lora_rank, R qk_rope_head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from .errors import RequestError

BITS, GROUP = 8, 64
STEP = 256  # buffers grow by so many positions, so that most tokens are written in place


@dataclass(frozen=True)
class QuantizedRows:
    """Rows [B, S, C + R] as form 8 keeps them; to be expanded a block at a time.

    codes uint32 [B, S, C/4], scales and biases [B, S, C/64], rope [B, S, R].
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    rope: mx.array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what they stand for."""
        B, S, R = self.rope.shape
        return B, S, self.scales.shape[2] * GROUP + R

    def expanded(self, block: slice, done: mx.array | None = None) -> mx.array:
        """The rows of a block of positions, in the rope's type; not to be computed before `done`
        is there."""
        codes = self.codes[:, block]
        if done is not None:
            codes = mx.depends(codes, done)
        scales, biases = self.scales[:, block], self.biases[:, block]
        latent = mx.dequantize(codes, scales, biases, group_size=GROUP, bits=BITS)
        return mx.concatenate([latent, self.rope[:, block]], axis=-1)


Rows = mx.array | QuantizedRows  # as attention reads them
Places = tuple[mx.array, mx.array]
Parts = dict[str, mx.array]  # as they are stored: axis 1 is the position in each


def check_bits(bits: int, rank: int) -> None:
    """Raises: RequestError for a form that does not exist or does not fit kv_lora_rank."""
    if bits not in (8, 16):
        raise RequestError(f"cache bits: got {bits}, wanted 16 (the model's own type) or 8")
    if bits == 8 and (rank <= 0 or rank % GROUP):
        raise RequestError(
            f"cache bits: got 8 for kv_lora_rank = {rank}, wanted a multiple of {GROUP}; use 16"
        )


def _encode(rows: mx.array, rank: int, bits: int) -> Parts:
    """Rows [B, L, C + R] in the form of `bits`."""
    if bits == 16:
        return {"rows": rows}
    latent, rope = mx.split(rows, [rank], axis=-1)
    codes, scales, biases = mx.quantize(latent, group_size=GROUP, bits=BITS)
    return {"codes": codes, "scales": scales, "biases": biases, "rope": rope}


def _rows(parts: Parts) -> Rows:
    return parts["rows"] if "rows" in parts else QuantizedRows(**parts)


def _room(length: int) -> int:
    """Positions that are allocated for so many tokens."""
    return -(-length // STEP) * STEP


class LatentCache:
    """The rows of one layer for one sequence (or several of one length).

    bits: 16 or 8; 8 needs rank, the model's kv_lora_rank.
    """

    def __init__(self, bits: int = 16, rank: int = 0) -> None:
        check_bits(bits, rank)
        self.offset = 0
        self._bits, self._rank = bits, rank
        self._parts: Parts = {}

    @property
    def form(self) -> str:
        """Names how rows are stored; rows of one form cannot be put into a cache of another."""
        return str(self._bits)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(part.nbytes for part in self._parts.values())

    @property
    def state(self) -> mx.array | list[mx.array] | None:
        """What is in use: the rows [B, offset, C + R], in form 8 its parts, None before the
        first."""
        used = [part[:, : self.offset] for part in self._parts.values()]
        return None if not used else used[0] if self._bits == 16 else used

    def append(self, rows: mx.array) -> Rows:
        """Add rows [B, L, C + R] for the positions offset .. offset + L; returns all rows so
        far."""
        self.extend(_encode(rows, self._rank, self._bits))
        return _rows({name: part[:, : self.offset] for name, part in self._parts.items()})

    def export(self, start: int, stop: int) -> Parts:
        """The stored arrays of the positions start .. stop, as copies that hold no more than
        that."""
        if not 0 <= start <= stop <= self.offset:
            raise ValueError(f"export: got {start} to {stop}, wanted a part of 0 to {self.offset}")
        where = mx.arange(start, stop)
        return {name: mx.take(part, where, axis=1) for name, part in self._parts.items()}

    def extend(self, parts: Parts) -> None:
        """Append what `export` of a cache of the same form gave."""
        if self._parts and parts.keys() != self._parts.keys():
            raise ValueError(f"extend: got {sorted(parts)}, wanted {sorted(self._parts)}")
        length = next(iter(parts.values())).shape[1] if parts else 0
        end = self.offset + length
        for name, part in parts.items():
            buffer = self._parts.get(name)
            if buffer is None or end > buffer.shape[1]:
                grown = mx.zeros((part.shape[0], _room(end), part.shape[2]), part.dtype)
                if buffer is not None:
                    grown[:, : self.offset] = buffer[:, : self.offset]
                buffer = grown
            buffer[:, self.offset : end] = part
            self._parts[name] = buffer
        self.offset = end

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens, at most all of them."""
        if not 0 <= count <= self.offset:
            raise ValueError(f"trim: got {count}, wanted 0 to {self.offset}")
        self.offset -= count


class BatchCache:
    """The rows of all layers for several sequences of different lengths that go on together.

    Slots are dense: sequence b of the batch is slot b, and when one is released the last slot
    moves into its place, as a list's last item does in items[b] = items[-1]; items.pop(). So no
    step computes for a slot that nobody uses. Every slot has as many positions as the longest
    needs: `bytes_for` says what that costs before it is allocated.

    Lengths are Python ints; nothing here waits for the device.
    """

    def __init__(self, layers: int, bits: int = 16, rank: int = 0) -> None:
        check_bits(bits, rank)
        self.lengths: list[int] = []
        self._bits, self._rank = bits, rank
        self._layers = [BatchLayer(self) for _ in range(layers)]
        self._row_bytes = 0
        self._places: dict[int, Places] = {}

    @property
    def form(self) -> str:
        """As of the LatentCaches that it takes and gives."""
        return str(self._bits)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, over all layers."""
        return sum(part.nbytes for layer in self._layers for part in layer.parts.values())

    @property
    def held(self) -> tuple[int, int]:
        """Slots and positions allocated: more than are in use where sequences have left."""
        parts = next((layer.parts for layer in self._layers if layer.parts), {})
        for part in parts.values():
            return part.shape[0], part.shape[1]
        return 0, 0

    def bytes_for(self, lengths: Sequence[int]) -> int:
        """Bytes that slots of these lengths take; 0 while nothing was ever admitted. While the
        slots are made larger one layer has both the old and the new."""
        return len(lengths) * _room(max(lengths, default=0)) * self._row_bytes

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, layer: int) -> BatchLayer:
        return self._layers[layer]

    def admit(self, cache: Sequence[LatentCache]) -> int:
        """Copy a sequence in; returns its slot, the last. The cache stays its owner's.

        cache: one a layer, of the same form, with at least one token, one sequence each.
        """
        length = cache[0].offset
        if cache[0].form != self.form or length < 1 or len(cache) != len(self._layers):
            raise ValueError(
                f"admit: got {len(cache)} layers of form {cache[0].form} with {length} tokens, "
                f"wanted {len(self._layers)} of form {self.form} with 1 or more"
            )
        self.lengths.append(length)
        for layer, one in zip(self._layers, cache, strict=True):
            layer.write(len(self) - 1, one.export(0, length))
        parts = [part for layer in self._layers for part in layer.parts.values()]
        self._row_bytes = sum(part.nbytes // (part.shape[0] * part.shape[1]) for part in parts)
        self._places.clear()
        return len(self) - 1

    def take(self, slot: int) -> list[LatentCache]:
        """A copy of a slot as caches of its own; the slot stays as it is."""
        length = self.lengths[slot]
        caches = [LatentCache(self._bits, self._rank) for _ in self._layers]
        for cache, layer in zip(caches, self._layers, strict=True):
            parts = {n: part[slot : slot + 1, :length] for n, part in layer.parts.items()}
            cache.extend(parts)
        return caches

    def release(self, slot: int) -> None:
        """Forget a sequence. The last slot's sequence has its place from now on. Gives memory back
        when half of it or less is needed."""
        last = len(self) - 1
        if not 0 <= slot <= last:
            raise ValueError(f"release: got slot {slot}, wanted one of the {len(self)} in use")
        for layer in self._layers if slot != last else ():
            layer.move(last, slot)
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        for layer in self._layers:
            layer.shrink()
        self._places.clear()

    def trim(self, slot: int, count: int) -> None:
        """Forget the last `count` tokens of a slot, leaving one or more."""
        if not 0 <= count < self.lengths[slot]:
            raise ValueError(f"trim: got {count}, wanted 0 to {self.lengths[slot] - 1}")
        self.lengths[slot] -= count
        self._places.clear()

    def advance(self, new: int) -> None:
        """Count the rows that every layer has appended to every slot; the model calls it."""
        self.lengths = [length + new for length in self.lengths]
        self._places.clear()

    def places(self, new: int) -> Places:
        """Where `new` rows a slot go: slots [B, 1] and positions [B, new], int32; made once for all
        layers of a step. With new = 0 the positions are the lengths, [B, 1]."""
        if new not in self._places:
            lengths = mx.array(self.lengths, mx.int32)[:, None]
            slots = mx.arange(len(self), dtype=mx.int32)[:, None]
            self._places[new] = slots, lengths + mx.arange(max(new, 1), dtype=mx.int32)
        return self._places[new]


class BatchLayer:
    """One layer of a BatchCache, as attention uses it."""

    def __init__(self, batch: BatchCache) -> None:
        self.parts: Parts = {}
        self._batch = batch

    @property
    def offset(self) -> mx.array:
        """How many tokens each sequence has, int32 [B]."""
        return self._batch.places(0)[1][:, 0]

    def append(self, rows: mx.array) -> Rows:
        """Add rows [B, L, C + R], to each sequence after its own last; returns [B, S, C + R] where
        sequence b has offset[b] + L rows and after them anything that is finite."""
        batch, new = self._batch, rows.shape[1]
        if rows.shape[0] != len(batch):
            raise ValueError(f"batch: got {rows.shape[0]} sequences, wanted {len(batch)}")
        place = batch.places(new)
        longest = max(batch.lengths) + new
        for name, part in _encode(rows, batch._rank, batch._bits).items():
            buffer = self._sized(name, part, len(batch), longest)
            buffer[place] = part
            self.parts[name] = buffer
        return _rows({n: part[: len(batch), :longest] for n, part in self.parts.items()})

    def write(self, slot: int, parts: Parts) -> None:
        """Put exported rows of one sequence at the beginning of a slot."""
        for name, part in parts.items():
            buffer = self._sized(name, part, slot + 1, part.shape[1])
            buffer[slot : slot + 1, : part.shape[1]] = part
            self.parts[name] = buffer

    def move(self, source: int, target: int) -> None:
        for buffer in self.parts.values():
            buffer[target] = buffer[source]

    def shrink(self) -> None:
        """Allocate anew when half or less of the slots or of the positions is needed."""
        slots, room = len(self._batch), _room(max(self._batch.lengths, default=0))
        if not slots:
            self.parts = {}
        for name, buffer in self.parts.items():
            if 2 * slots <= buffer.shape[0] or 2 * room <= buffer.shape[1]:
                self.parts[name] = mx.contiguous(buffer[:slots, :room])

    def _sized(self, name: str, like: mx.array, slots: int, length: int) -> mx.array:
        """The buffer of a part with room for so many slots and positions."""
        buffer = self.parts.get(name)
        if buffer is None:
            return mx.zeros((slots, _room(length), like.shape[2]), like.dtype)
        if slots > buffer.shape[0] or length > buffer.shape[1]:
            size = max(slots, buffer.shape[0]), max(_room(length), buffer.shape[1])
            grown = mx.zeros((*size, buffer.shape[2]), buffer.dtype)
            grown[: buffer.shape[0], : buffer.shape[1]] = buffer
            return grown
        return buffer

"""One matrix of a checkpoint, in any of the forms that K2's weights come in.

    form       tensors below the matrix's name (k2-spec 3)
    plain      weight, floating point
    fp8        weight F8_E4M3 [O, I], weight_scale_inv F32 [ceil(O/128), ceil(I/128)]:
               w = weight * scale of its block
    int4       compressed-tensors: weight_packed I32 [O, I/8], weight_scale [O, I/32], weight_shape;
               the codes of K2's grid (nn/quant.py), bit for bit
    symmetric  k2mlx's own: weight U32, scales; the same codes
    affine     MLX's: weight U32, scales, biases

Shape letters: O rows (outputs), I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from ..config import QuantSpec
from ..errors import CheckpointError
from ..nn.quant import GROUP, k2_dequantize, quantize
from .files import Buffer, Stored

BLOCK = 128  # rows and inputs that share a scale in fp8
CHUNK = 1 << 24  # values decoded at a time
K2_GRID = QuantSpec(4, GROUP, "symmetric")


@dataclass(frozen=True)
class Matrix:
    """Where a matrix [O, I] is and how it is stored. `parts` carry MLX's names (weight, scales,
    biases) in every form. `spec` is None for plain and fp8."""

    name: str
    form: str
    shape: tuple[int, int]
    parts: dict[str, Stored]
    spec: QuantSpec | None = None

    def is_stored_as(self, spec: QuantSpec | None) -> bool:
        """Whether the bytes are those that `spec` would have."""
        return self.spec == spec and self.form not in ("fp8", "heads")

    def rows(self, begin: int, end: int) -> Matrix:
        """Rows [begin, end); in fp8 `begin` must start a block."""
        step = BLOCK if self.form == "fp8" else 1
        parts = {
            kind: part.rows(begin, end)
            if kind == "weight" or step == 1
            else part.rows(begin // step, -(-end // step))
            for kind, part in self.parts.items()
        }
        return replace(self, shape=(end - begin, self.shape[1]), parts=parts)

    def read(self) -> mx.array:
        """The values [O, I]: plain ones as they are stored, others in float32."""
        weight = self.parts["weight"].read()
        if self.form == "plain":
            return weight
        scales = self.parts["scales"].read().astype(mx.float32)
        if self.form == "fp8":
            return _from_fp8(weight, scales)
        weight = weight.view(mx.uint32)
        if self.form != "affine":
            return k2_dequantize(weight, scales)
        biases = self.parts["biases"].read().astype(mx.float32)
        assert self.spec is not None
        return mx.dequantize(
            weight, scales, biases, group_size=self.spec.group_size, bits=self.spec.bits
        )


@dataclass(frozen=True)
class HeadMatrices(Matrix):
    """kv_b_proj [H (N + V), C] as mlx-lm cuts it: for each head a matrix of keys, transposed
    [C, N], and one of values [V, C]."""

    heads: tuple[tuple[Matrix, Matrix], ...] = ()
    cut: tuple[int, int] | None = None

    def rows(self, begin: int, end: int) -> Matrix:
        return replace(self, shape=(end - begin, self.shape[1]), cut=(begin, end))

    def read(self) -> mx.array:
        parts = [p for k, v in self.heads for p in (k.read().swapaxes(0, 1), v.read())]
        whole = mx.concatenate(parts)
        return whole if self.cut is None else whole[self.cut[0] : self.cut[1]]


def assemble(blocks: list[Matrix], spec: QuantSpec | None) -> dict[str, mx.array]:
    """Matrices of the same inputs one below the other, [rows, ...] for each part that `spec` has.

    Codes and scales are copied where they are already as `spec` wants them, computed otherwise.
    Peak memory: the result and CHUNK values. Raises CheckpointError for NaN and infinity in values
    and scales, and in what is computed anew: codes could not say it, and would pass for numbers.
    """
    rows, inputs = sum(block.shape[0] for block in blocks), blocks[0].shape[1]
    kinds = dtypes(blocks[0], spec)
    shapes = stored_parts(rows, inputs, spec)
    out = {kind: Buffer(shape, kinds[kind]) for kind, shape in shapes.items()}
    done = 0
    for block in blocks:
        if block.is_stored_as(spec) and dtypes(block, spec) == kinds:
            for kind, part in out.items():
                block.parts[kind].read_into(part.memory[done : done + block.shape[0]])
        else:
            step = max(BLOCK, CHUNK // inputs // BLOCK * BLOCK)
            for begin in range(0, block.shape[0], step):
                chunk = block.rows(begin, min(begin + step, block.shape[0]))
                values = chunk.read()
                if not mx.isfinite(values).all().item():
                    raise _not_finite(block)
                for kind, value in encode(values, spec).items():
                    out[kind].put(done + begin, value)
        done += block.shape[0]
    floats = out.keys() if spec is None else out.keys() - {"weight"}
    if not all(out[kind].is_finite() for kind in floats):
        raise _not_finite(*blocks)
    return {kind: part.array() for kind, part in out.items()}


def dtypes(matrix: Matrix, spec: QuantSpec | None) -> dict[str, str]:
    """The safetensors type of each part, once `matrix` is stored as `spec` says: its own where it
    already is, else bfloat16."""
    kinds = dict.fromkeys(stored_parts(*matrix.shape, spec), "BF16")
    if matrix.is_stored_as(spec):
        kinds = {kind: matrix.parts[kind].dtype for kind in kinds}
    return kinds if spec is None else {**kinds, "weight": "U32"}


def encode(w: mx.array, spec: QuantSpec | None) -> dict[str, mx.array]:
    """w [O, I] as `spec` stores it: weight, and scales and biases where it has them."""
    return {"weight": w} if spec is None else quantize(w, spec)


def stored_parts(rows: int, inputs: int, spec: QuantSpec | None) -> dict[str, tuple[int, int]]:
    """Shapes of the parts of a matrix [O, I] as `spec` stores it."""
    if spec is None:
        return {"weight": (rows, inputs)}
    scales = (rows, inputs // spec.group_size)
    parts = {"weight": (rows, inputs * spec.bits // 32), "scales": scales}
    return parts if spec.mode == "symmetric" else {**parts, "biases": scales}


def _from_fp8(weight: mx.array, scales: mx.array) -> mx.array:
    rows, inputs = weight.shape
    wide = mx.repeat(mx.repeat(scales, BLOCK, axis=0)[:rows], BLOCK, axis=1)[:, :inputs]
    return mx.from_fp8(weight, mx.float32) * wide


def _not_finite(*blocks: Matrix) -> CheckpointError:
    for part in (part for block in blocks for part in block.parts.values()):
        if not part.is_finite():
            return part.not_finite()
    where = f"{next(iter(blocks[0].parts.values())).path}: {blocks[0].name}"
    return CheckpointError(f"{where} holds values too large for bfloat16; fetch it again")

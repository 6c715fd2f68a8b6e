"""K2's INT4 grid, and matrices (single, or one for each expert) that are stored quantised.

The grid (k2-spec 3.2 and 0.6, 0.7): each 32 consecutive inputs of a row share one bfloat16 scale s
= max(absmax / 7, 1e-5); codes are rint(w / s) in -7..7, stored as code + 8, eight to a word,
lowest bits first. MLX's kernels read the same words with biases = -8 s, which is exact in
bfloat16, so the biases are made where those kernels run and never stored. kernels.py does without.

Shape letters: E experts, O outputs, I inputs, L rows of x.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from ..config import Quantization, QuantSpec
from ..errors import ConfigError
from . import kernels

GROUP = 32


def _codes(w: mx.array) -> tuple[mx.array, mx.array]:
    """Codes -7..7 [..., O, I/32, 32] and bfloat16 scales [..., O, I/32, 1], both as float32."""
    groups = w.astype(mx.float32).reshape(*w.shape[:-1], -1, GROUP)
    scales = mx.maximum(mx.abs(groups).max(axis=-1, keepdims=True) / 7, 1e-5)
    scales = scales.astype(mx.bfloat16).astype(mx.float32)
    return mx.clip(mx.round(groups / scales), -7, 7), scales


def k2_quantize(w: mx.array) -> tuple[mx.array, mx.array]:
    """w [..., O, I] -> packed uint32 [..., O, I/8], scales bfloat16 [..., O, I/32]. I must divide
    by 32."""
    codes, scales = _codes(w)
    nibbles = (codes + 8).astype(mx.uint32).reshape(*w.shape[:-1], -1, 8)
    packed = (nibbles << mx.arange(0, 32, 4, dtype=mx.uint32)).sum(axis=-1).astype(mx.uint32)
    return packed, scales.squeeze(-1).astype(mx.bfloat16)


def k2_dequantize(packed: mx.array, scales: mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """The inverse of `k2_quantize`: w [..., O, I] in `dtype`."""
    nibbles = (packed[..., None] >> mx.arange(0, 32, 4, dtype=mx.uint32)) & 15
    codes = nibbles.astype(mx.float32).reshape(*scales.shape, GROUP) - 8
    w = codes * scales.astype(mx.float32)[..., None]
    return w.reshape(*scales.shape[:-1], -1).astype(dtype)


def symmetric_biases(scales: mx.array) -> mx.array:
    """What MLX's affine kernels add so that nibble 8 means zero."""
    return scales * -8


def quantize(w: mx.array, spec: QuantSpec) -> dict[str, mx.array]:
    """w [..., O, I] as it is stored: weight uint32, scales bfloat16, and biases where `spec` has
    them."""
    check_groups(w.shape[-1], spec)
    if spec.mode == "symmetric":
        packed, scales = k2_quantize(w)
        return {"weight": packed, "scales": scales}
    w = w.astype(mx.bfloat16)  # so that the codes are chosen for the scales as they are stored
    if w.ndim == 3:  # mx.quantize of a large stack fails on CUDA in MLX 0.32.4
        parts = [mx.quantize(m, group_size=spec.group_size, bits=spec.bits) for m in w]
        weight, scales, biases = (mx.stack(list(part)) for part in zip(*parts, strict=True))
    else:
        weight, scales, biases = mx.quantize(w, group_size=spec.group_size, bits=spec.bits)
    return {"weight": weight, "scales": scales, "biases": biases}


def fake_quantize(w: mx.array, spec: QuantSpec) -> mx.array:
    """w as it will be stored, with the gradient of the identity (straight-through), for training.

    Not the gradient of mx.dequantize(mx.quantize(w)): that is not zero, but it is not this one
    either.
    """
    fixed = mx.stop_gradient(w)
    if spec.mode == "symmetric":
        codes, scales = _codes(fixed)
        rounded = (codes * scales).reshape(w.shape)
    else:
        parts = quantize(fixed, spec)
        scales, biases = (parts[k].astype(mx.float32) for k in ("scales", "biases"))
        rounded = mx.dequantize(
            parts["weight"], scales, biases, group_size=spec.group_size, bits=spec.bits
        )
    return w + mx.stop_gradient(rounded.astype(w.dtype) - fixed)


def quantized_matmul(
    x: mx.array, parts: list[mx.array], spec: QuantSpec, transpose: bool = True
) -> mx.array:
    """x [..., L, I] times parts = weight, scales, biases of [..., O, I] (or of [..., I, O], not
    transposed)."""
    weight, scales, biases = parts
    return mx.quantized_matmul(x, weight, scales, biases, transpose, spec.group_size, spec.bits)


class QuantizedMatrix(nn.Module):
    """A matrix as it is stored, or one for each expert: weight uint32 [..., O, I*bits/32], scales
    and, if the mode is affine, biases [..., O, I/group_size]."""

    def __init__(self, shape: tuple[int, ...], spec: QuantSpec):
        super().__init__()
        check_groups(shape[-1], spec)
        self.spec = spec
        groups = (*shape[:-1], shape[-1] // spec.group_size)
        self.weight = mx.zeros((*shape[:-1], shape[-1] * spec.bits // 32), mx.uint32)
        self.scales = mx.zeros(groups)
        if spec.mode == "affine":
            self.biases = mx.zeros(groups)
        self._made: tuple[mx.array, mx.array] | None = None
        self.freeze()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the codes stand for: [..., O, I]."""
        return (*self.scales.shape[:-1], self.scales.shape[-1] * self.spec.group_size)

    @property
    def parts(self) -> list[mx.array]:
        """weight, scales and biases, as MLX's kernels take them. Biases of the symmetric mode are
        made for the first that asks and kept: an eighth of the bytes."""
        if self.spec.mode == "affine":
            return [self.weight, self.scales, self.biases]
        if self._made is None or self._made[0] is not self.scales:
            self._made = (self.scales, symmetric_biases(self.scales))
        return [self.weight, *self._made]

    def expanded(self, start: int, stop: int) -> mx.array:
        """Matrices start..stop of a stack, or these rows of a single one, in floating point."""
        weight, scales = self.weight[start:stop], self.scales[start:stop]
        if kernels.usable(self.spec, scales.dtype, self.shape):
            return kernels.expand(weight, scales)
        symmetric = self.spec.mode == "symmetric"
        biases = symmetric_biases(scales) if symmetric else self.biases[start:stop]
        return mx.dequantize(weight, scales, biases, self.spec.group_size, self.spec.bits)


class QuantizedLinear(QuantizedMatrix):
    """A matrix [O, I] without bias: x [..., I] -> [..., O]."""

    def __call__(self, x: mx.array) -> mx.array:
        return quantized_matmul(x, self.parts, self.spec)


class ExpertLinear(nn.Module):
    """One matrix for each expert, stacked: weight [E, O, I]."""

    def __init__(self, experts: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = mx.random.normal((experts, outputs, inputs), scale=inputs**-0.5)

    def __call__(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        """x [..., 1, I], indices [...] -> [..., 1, O]: each row through the matrix of its expert.
        `in_order`: indices ascend, which the kernels use to read each expert once."""
        w = self.weight.swapaxes(-1, -2)
        return mx.gather_mm(x, w, rhs_indices=indices, sorted_indices=in_order)


class QuantizedExpertLinear(QuantizedMatrix):
    """`ExpertLinear` with matrices [E, O, I] as they are stored."""

    @property
    def parts(self) -> list[mx.array]:
        """As of every quantised matrix, but where our own kernels do most of the work biases are
        not kept."""
        if kernels.usable(self.spec, self.scales.dtype, self.shape):
            return [self.weight, self.scales, symmetric_biases(self.scales)]
        return super().parts

    def __call__(self, x: mx.array, indices: mx.array, in_order: bool) -> mx.array:
        return mx.gather_qmm(
            x,
            *self.parts,
            rhs_indices=indices,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            sorted_indices=in_order,
        )


def check_groups(inputs: int, spec: QuantSpec, where: str = "quantization") -> None:
    """Raises ConfigError unless the inputs divide into groups."""
    if inputs % spec.group_size:
        raise ConfigError(
            f"{where}: got a matrix with {inputs} inputs, wanted a multiple of group_size = "
            f"{spec.group_size}; set a smaller group_size or leave this kind of matrix unquantised"
        )


def quantize_modules(model: nn.Module, quantization: Quantization) -> None:
    """Replace the matrices of `model` by ones that are stored as `quantization` says, without
    values."""

    def replaced(path: str, module: nn.Module) -> nn.Module:
        spec = quantization.spec(path)
        if spec is None:
            return module
        if isinstance(module, nn.Linear | nn.Embedding | ExpertLinear):
            check_groups(module.weight.shape[-1], spec)
        if isinstance(module, nn.Linear):
            return QuantizedLinear(module.weight.shape, spec)
        if isinstance(module, ExpertLinear):
            return QuantizedExpertLinear(module.weight.shape, spec)
        if isinstance(module, nn.Embedding):
            size = module.weight.shape
            return nn.QuantizedEmbedding(*size, group_size=spec.group_size, bits=spec.bits)
        return module

    leaves = model.leaf_modules()
    model.update_modules(
        tree_map_with_path(replaced, leaves, is_leaf=lambda m: isinstance(m, nn.Module))
    )

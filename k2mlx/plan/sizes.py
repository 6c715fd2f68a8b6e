"""Bytes of a K2 by part and layer: on disk, in memory at some precision, and read for a token.

On disk: from the safetensors headers of a folder, or where it has none from the shapes that its
config gives, in the storage that it declares (k2-spec 3). In memory: k2mlx's own forms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, QuantSpec
from ..errors import CheckpointError
from ..weights.files import BITS, read_folder
from ..weights.matrix import BLOCK, K2_GRID
from ..weights.names import Shape, layer_tensors
from ..weights.source import EIGHT_BITS

PARTS = (
    "embedding", "head", "attention", "dense MLP", "shared experts", "routed experts", "router",
    "norms", "other",
)  # fmt: skip
# MLX's affine kernels want a bias with each scale. K2's symmetric INT4 has none on disk, so k2mlx
# makes them at load: 2 bytes for each 32 weights, 63 GB for the official K2. 0 once a symmetric
# kernel does without.
SYMMETRIC_BIAS_BYTES = 2
SCALE_BYTES = 2  # bfloat16; an affine bias has as many
FLOATS = ("BF16", "F16", "F32")
CACHE_BYTES = 2  # a cached value, bfloat16
ROUTER = "mlp.gate."  # kept in float32 in memory

Tensor = tuple[str, str, Shape]  # name, dtype as safetensors spells it, shape


@dataclass(frozen=True)
class Sizes:
    """Bytes by part (keys of PARTS): of each layer, and of what stands outside the layers."""

    layers: tuple[dict[str, int], ...]
    outside: dict[str, int]

    def part(self, name: str) -> int:
        """Bytes of one part in the whole model."""
        return self.outside.get(name, 0) + sum(layer.get(name, 0) for layer in self.layers)

    @property
    def total(self) -> int:
        return sum(map(self.part, PARTS))

    @property
    def layer_bytes(self) -> list[int]:
        return [sum(layer.values()) for layer in self.layers]

    @property
    def embed_bytes(self) -> int:
        """What the first rank holds besides its layers."""
        return self.outside.get("embedding", 0)

    @property
    def head_bytes(self) -> int:
        """What the last rank holds besides its layers: the head and the norm before it."""
        return self.outside.get("head", 0) + self.outside.get("norms", 0)

    def layer_reads(self, config: ModelConfig, share: float | None = None) -> list[int]:
        """Bytes of each layer that a step reads when it uses `share` of the routed experts; one
        token's share by default."""
        used = config.num_experts_per_tok / config.n_routed_experts if share is None else share
        idle = 1 - used
        return [
            sum(layer.values()) - round(layer.get("routed experts", 0) * idle)
            for layer in self.layers
        ]

    def token_reads(self, config: ModelConfig) -> int:
        """Bytes of weights that a token reads: all but idle experts and the embedding, of which it
        takes a row. 33.0 GB for the official K2 in INT4 (k2-spec 3.3)."""
        return sum(self.layer_reads(config)) + self.head_bytes


def cache_bytes_per_layer(config: ModelConfig, context: int) -> int:
    """Bytes of one layer's cache for that many tokens: a latent and a rotary key a token."""
    return (config.kv_lora_rank + config.qk_rope_head_dim) * CACHE_BYTES * context


def matrix_bytes(rows: int, inputs: int, spec: QuantSpec | None) -> int:
    """Bytes in memory of a matrix [rows, inputs] held as `spec` says, whose groups must divide the
    inputs."""
    if spec is None:
        return 2 * rows * inputs
    bias = SYMMETRIC_BIAS_BYTES if spec.mode == "symmetric" else SCALE_BYTES
    return rows * (inputs * spec.bits // 8 + inputs // spec.group_size * (SCALE_BYTES + bias))


def stored_sizes(config: ModelConfig, tensors: list[Tensor] | None = None) -> Sizes:
    """Bytes on disk: of `tensors`, or without them of what `config` declares.

    Raises CheckpointError where the tensors are not of this config.
    """
    return _sizes(config, tensors, lambda tensor, names: stored_bytes(*tensor[1:]))


def kept_sizes(config: ModelConfig, tensors: list[Tensor] | None = None) -> Sizes:
    """Bytes in memory of a model loaded as it is stored (FP8, which MLX's kernels do not take, as
    weights/source.py keeps it). Without `tensors`, of what `config` declares."""
    return _sizes(config, tensors, lambda tensor, names: kept_bytes(*tensor, names))


def folder_tensors(folder: Path) -> list[Tensor] | None:
    """Every tensor of a folder's files, from their headers alone; None where it has no files.

    Raises CheckpointError for files that are missing or damaged.
    """
    if not any(folder.glob("*.safetensors")):
        return None
    return [(t.name, t.dtype, t.shape) for t in read_folder(folder).values()]


def stored_bytes(dtype: str, shape: Shape) -> int:
    return math.prod(shape) * BITS[dtype] // 8


def kept_bytes(name: str, dtype: str, shape: Shape, names: set[str]) -> int:
    """Bytes in memory of one stored tensor: floating point becomes bfloat16, the router's float32,
    symmetric scales get biases, and what only describes or only sees is not kept."""
    part = part_of(name)[1]
    if part == "other" or name.endswith(("weight_shape", "weight_scale_inv")):
        return 0
    if part == "router":
        return 4 * math.prod(shape)
    if dtype == "F8_E4M3" and len(shape) > 1:
        stack = math.prod(shape[:-2])
        form = K2_GRID if part == "routed experts" else EIGHT_BITS
        return stack * matrix_bytes(shape[-2], shape[-1], form)
    size = 2 * math.prod(shape) if dtype in FLOATS else stored_bytes(dtype, shape)
    stem = name.removesuffix("scales")
    symmetric = name.endswith("weight_scale") or (stem != name and f"{stem}biases" not in names)
    return size + symmetric * math.prod(shape) * SYMMETRIC_BIAS_BYTES


def declared_tensors(config: ModelConfig, name: str, shape: Shape) -> Iterator[Tensor]:
    """How the checkpoint that `config` declares stores one tensor of the official layout."""
    stem, form = name.removesuffix("weight"), config.checkpoint_format
    routed, outside = ".mlp.experts." in name, not name.startswith("model.layers.")
    spec = None if form in ("bf16", "fp8", "int4") else config.spec(_module(name))
    if name.endswith("e_score_correction_bias"):
        yield name, "F32", shape
    elif len(shape) == 1 or ROUTER in name:
        yield name, "BF16", shape
    elif form == "fp8" and not outside:
        yield name, "F8_E4M3", shape
        yield f"{stem}weight_scale_inv", "F32", (-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))
    elif form == "int4" and routed:
        yield f"{stem}weight_packed", "I32", (shape[0], shape[1] // 8)
        yield f"{stem}weight_scale", "BF16", (shape[0], shape[1] // 32)
        yield f"{stem}weight_shape", "I32", (2,)
    elif spec is not None:
        yield f"{stem}weight", "U32", (shape[0], shape[1] * spec.bits // 32)
        for kind in ("scales",) if spec.mode == "symmetric" else ("scales", "biases"):
            yield stem + kind, "BF16", (shape[0], shape[1] // spec.group_size)
    else:
        yield name, "BF16", shape


def _module(name: str) -> str:
    """The path in the module tree, where experts are stacked, of an official tensor."""
    name = re.sub(r"\.experts\.\d+\.(gate|up)_proj\.", ".experts.gate_up_proj.", name)
    return re.sub(r"\.experts\.\d+\.", ".experts.", name)


def part_of(name: str) -> tuple[int | None, str]:
    """A tensor's layer (None outside the layers) and part, by its name in any layout.

    Layouts: official, k2mlx (experts stacked), mlx-lm (`switch_mlp`, `embed_q`), and any of them
    below `language_model.` as in K2.5.
    """
    name = name.removeprefix("language_model.")
    found = re.match(r"model\.layers\.(\d+)\.(.+)", name)
    if found is None:
        stem = name.rpartition(".")[0]
        named = {"model.embed_tokens": "embedding", "lm_head": "head", "model.norm": "norms"}
        return None, named.get(stem, "other")
    layer, rest = int(found[1]), found[2]
    if "layernorm" in rest:
        return layer, "norms"
    starts = {
        "self_attn.rotary_emb.": "other",
        "self_attn.": "attention",
        ROUTER: "router",
        "mlp.experts.": "routed experts",
        "mlp.switch_mlp.": "routed experts",
        "mlp.shared_experts.": "shared experts",
        "mlp.": "dense MLP",
    }
    return layer, next((p for start, p in starts.items() if rest.startswith(start)), "other")


def _sizes(
    config: ModelConfig, tensors: list[Tensor] | None, nbytes: Callable[[Tensor, set[str]], int]
) -> Sizes:
    """nbytes(tensor, names of its folder or matrix), summed."""
    if tensors is not None:
        names = {tensor[0] for tensor in tensors}
        return _sum(config, ((tensor[0], nbytes(tensor, names)) for tensor in tensors))

    def declared(name: str, shape: Shape) -> int:
        parts = list(declared_tensors(config, name, shape))
        names = {part[0] for part in parts}
        return sum(nbytes(part, names) for part in parts)

    return from_shapes(config, declared)


def from_shapes(config: ModelConfig, nbytes: Callable[[str, Shape], int]) -> Sizes:
    """Sizes of the official tensors; nbytes(name, shape) says what each becomes."""
    known: dict[object, dict[str, int]] = {}
    layers = []
    for index in range(config.num_hidden_layers):
        # Layers of a kind are alike, unless the config speaks of single ones.
        single = config.quantization is not None and config.quantization.modules
        kind = index if single else ("dense" if config.is_dense(index) else "experts")
        if kind not in known:
            tensors = layer_tensors(config, index)
            named = ((f"model.layers.{index}.{name}", shape) for name, shape in tensors)
            known[kind] = _by_part((name, nbytes(name, shape)) for name, shape in named)
        layers.append(dict(known[kind]))
    table = (config.vocab_size, config.hidden_size)
    outside = (("model.embed_tokens", table), ("model.norm", table[1:]), ("lm_head", table))
    sizes = ((f"{name}.weight", nbytes(f"{name}.weight", shape)) for name, shape in outside)
    return Sizes(tuple(layers), _by_part(sizes))


def _by_part(entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, size in entries:
        part = part_of(name)[1]
        parts[part] = parts.get(part, 0) + size
    return parts


def _sum(config: ModelConfig, entries: Iterable[tuple[str, int]]) -> Sizes:
    layers: list[dict[str, int]] = [{} for _ in range(config.num_hidden_layers)]
    outside: dict[str, int] = {}
    for name, size in entries:
        layer, part = part_of(name)
        if layer is not None and layer >= len(layers):
            raise CheckpointError(
                f"{name}: got a layer {layer}, wanted 0 to {len(layers) - 1} by config.json; "
                "they do not belong together, fetch the folder again"
            )
        where = outside if layer is None else layers[layer]
        where[part] = where.get(part, 0) + size
    if missing := [i for i, layer in enumerate(layers) if not layer]:
        raise CheckpointError(
            f"layer {missing[0]}: no tensors there ({len(missing)} of {len(layers)} layers are "
            "without); the folder is incomplete, fetch it again"
        )
    return Sizes(tuple(layers), outside)

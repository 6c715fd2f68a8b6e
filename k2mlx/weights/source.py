"""A checkpoint in any layout that K2 comes in, read as the model's module tree.

    layout                   experts                                   kv_b_proj
    official (bf16, fp8,     mlp.experts.E.{gate,up,down}_proj         kv_b_proj
      int4)
    k2mlx                    mlp.experts.{gate_up,down}_proj stacked   kv_b_proj
    mlx-lm                   mlp.switch_mlp.{gate,up,down}_proj        kv_b_proj, or embed_q and
                             stacked                                   unembed_out

What a matrix is stored as is read off its own tensors, one by one (matrix.py), so layers may
differ. K2.5's text model stands under `language_model.`; its other tensors are left alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from ..config import ModelConfig, Quantization, QuantSpec, finest
from ..errors import CheckpointError
from ..nn.quant import GROUP
from .files import DTYPES, Stored, read_folder
from .matrix import K2_GRID, HeadMatrices, Matrix, assemble, dtypes, stored_parts
from .names import Shape, is_held, module_tensors

# Parts that belong to the vision half of K2.5 and later.
VISION = ("vision_tower.", "mm_projector.", "multi_modal_projector.", "vision_model.", "visual.")
# What MLX has instead of fp8. Groups of 32: `k2mlx eval precision` on k2-nano gives 1.3e-2 nats a
# token for the attention, 1.9e-2 with groups of 64 and 0.8e-2 for rounding to bfloat16.
EIGHT_BITS = QuantSpec(8, 32)
FLOATS = ("BF16", "F16", "F32")
log = logging.getLogger(__name__)


class Source:
    """The tensors of a model folder. Opening reads the headers alone, and checks every name and
    shape against the config: CheckpointError for what is missing, unknown or of another shape.

    held: the layers that are wanted (with embedding, or norm and head, as Model has it); files that
    hold nothing of these need not be there.
    """

    def __init__(self, folder: Path, config: ModelConfig, held: range | None = None):
        self.folder, self.config = folder, config
        self._held = range(config.num_hidden_layers) if held is None else held
        self._tensors = self._text_only(read_folder(folder, self._wanted if held else None))
        self._used: set[str] = set()
        self._blocks: dict[str, list[list[Matrix]]] = {}
        self._plain: dict[str, Stored] = {}
        for name, shape in module_tensors(config):
            if not self._wanted(name):
                continue
            path = name.removesuffix(".weight")
            if len(shape) == 1 or name.endswith("mlp.gate.weight"):
                self._plain[name] = self._tensor(name, shape, FLOATS)
            else:
                self._blocks[path] = list(self._find_blocks(path, shape))
        self._inspect_leftovers()
        self._compare_with_config()

    def _wanted(self, name: str) -> bool:
        plain = name.removeprefix("language_model.")
        return is_held(plain, self._held, self.config.num_hidden_layers)

    @property
    def nbytes(self) -> int:
        """Of all tensors that are wanted, as they are stored."""
        return sum(self._tensors[name].nbytes for name in self._used)

    def bytes_of(self, path: str) -> int:
        """Of the matrix at this module path, as it is stored."""
        blocks = [block for blocks in self._blocks[path] for block in blocks]
        return sum(part.nbytes for block in blocks for part in block.parts.values())

    def specs(self) -> dict[str, QuantSpec | None]:
        """How each matrix is to be kept in memory, by module path: as it is stored, and fp8 on K2's
        grid for experts, in 8 bits for the rest."""
        return {path: self._kept_as(path, blocks) for path, blocks in self._blocks.items()}

    def quantization(self) -> Quantization | None:
        """`specs` for a config."""
        specs = self.specs()
        if not any(specs.values()):
            return None
        return summarize(specs)

    def plain(self, name: str) -> mx.array:
        """A norm, the router's matrix or its correction bias. Raises CheckpointError for NaN and
        infinity."""
        stored = self._plain[name]
        if not stored.is_finite():
            raise stored.not_finite()
        return stored.read()

    def plain_names(self) -> list[str]:
        return list(self._plain)

    def matrix(self, path: str, spec: QuantSpec | None) -> dict[str, mx.array]:
        """The matrix [O, I], or the stack [E, O, I] of experts, at `path`, as `spec` stores it: its
        parts weight, and scales and biases where it has them. Peak memory: the result and a few
        rows."""
        experts = self._blocks[path]
        arrays = assemble([block for blocks in experts for block in blocks], spec)
        if not is_stack(path):
            return arrays
        return {kind: a.reshape(len(experts), -1, a.shape[-1]) for kind, a in arrays.items()}

    def form(self, path: str) -> str:
        """How the matrix at this module path is stored; see matrix.py."""
        return self._blocks[path][0][0].form

    def dtypes(self, path: str, spec: QuantSpec | None) -> dict[str, str]:
        """The safetensors types of what `matrix` returns."""
        return dtypes(self._blocks[path][0][0], spec)

    def fingerprint(self) -> str:
        """Changes when a tensor is added, removed, moved or changes its shape or its file's size or
        date."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            facts = (name, tensor.path.name, tensor.dtype, tensor.shape, tensor.offset)
            digest.update(repr(facts).encode())
        for path in sorted({tensor.path for tensor in self._tensors.values()}):
            digest.update(repr((path.stat().st_size, path.stat().st_mtime_ns)).encode())
        return digest.hexdigest()

    def shards(self, path: str) -> set[Path]:
        """The files that hold a matrix."""
        blocks = [block for blocks in self._blocks[path] for block in blocks]
        return {part.path for block in blocks for part in block.parts.values()}

    def _text_only(self, tensors: dict[str, Stored]) -> dict[str, Stored]:
        skipped: Counter[str] = Counter()
        text = {}
        for name, tensor in tensors.items():
            if name.startswith(VISION):
                skipped[name.partition(".")[0]] += tensor.nbytes
                continue
            plain = name.removeprefix("language_model.")
            if plain in text:
                raise CheckpointError(
                    f"{tensor.path}: {name} is there as {text[plain].name} too; fetch the folder "
                    "again"
                )
            text[plain] = tensor
        for part, size in skipped.items():
            log.warning("%s: %s is left out (%.1f MB): text only", self.folder, part, size / 1e6)
        return text

    def _find_blocks(self, path: str, shape: Shape) -> Iterator[list[Matrix]]:
        """For each expert (or once) the matrices that stand one below the other in `path`."""
        prefix, found, kind = path.partition(".mlp.experts.")
        if not found:
            if path.endswith("kv_b_proj") and not self._has(path):
                yield [self._joined_kv_b(path, shape)]
            else:
                yield [self._matrix(path, shape[0], shape[1])]
            return
        experts, rows, inputs = shape
        halves = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[kind]
        if self._has(path):
            yield from ([m] for m in self._stack(path, experts, rows, inputs))
        elif self._has(f"{prefix}.mlp.switch_mlp.{halves[0]}"):
            names = [f"{prefix}.mlp.switch_mlp.{half}" for half in halves]
            stacks = [self._stack(name, experts, rows // len(halves), inputs) for name in names]
            yield from (list(blocks) for blocks in zip(*stacks, strict=True))
        else:
            for expert in range(experts):
                names = [f"{prefix}.mlp.experts.{expert}.{half}" for half in halves]
                yield [self._matrix(name, rows // len(halves), inputs) for name in names]

    def _has(self, path: str) -> bool:
        return f"{path}.weight" in self._tensors or f"{path}.weight_packed" in self._tensors

    def _matrix(self, path: str, rows: int, inputs: int) -> Matrix:
        """The matrix [rows, inputs] stored under `path`."""
        return self._described(path, (rows, inputs), ())

    def _stack(self, path: str, experts: int, rows: int, inputs: int) -> Iterator[Matrix]:
        """Every expert's matrix of a stack."""
        whole = self._described(path, (rows, inputs), (experts,))
        for index in range(experts):
            parts = {kind: part[index] for kind, part in whole.parts.items()}
            yield replace(whole, parts=parts)

    def _described(self, path: str, shape: tuple[int, int], stack: Shape) -> Matrix:
        rows, inputs = shape
        if f"{path}.weight_packed" in self._tensors:
            packed = (*stack, rows, inputs // 8)
            groups = (*stack, rows, inputs // GROUP)
            parts = {
                "weight": self._tensor(f"{path}.weight_packed", packed, ("I32", "U32")),
                "scales": self._tensor(f"{path}.weight_scale", groups, FLOATS),
            }
            written = self._tensor(f"{path}.weight_shape", (2,), ("I64", "I32"))
            if written.read().tolist() != [rows, inputs]:
                raise CheckpointError(
                    f"{written.path}: {written.name}: got {written.read().tolist()}, wanted "
                    f"{[rows, inputs]}; fetch it again"
                )
            return Matrix(path, "int4", shape, parts, K2_GRID)
        weight = self._tensor(f"{path}.weight", None)
        if weight.dtype == "F8_E4M3":
            blocks = (*stack, -(-rows // 128), -(-inputs // 128))
            parts = {
                "weight": self._tensor(f"{path}.weight", (*stack, rows, inputs)),
                "scales": self._tensor(f"{path}.weight_scale_inv", blocks, FLOATS),
            }
            return Matrix(path, "fp8", shape, parts)
        if weight.dtype != "U32":
            parts = {"weight": self._tensor(f"{path}.weight", (*stack, rows, inputs), FLOATS)}
            return Matrix(path, "plain", shape, parts)
        return self._described_mlx(path, shape, stack, weight)

    def _described_mlx(
        self, path: str, shape: tuple[int, int], stack: Shape, weight: Stored
    ) -> Matrix:
        """`scales` and `weight` say how many inputs share a scale, and in how many bits."""
        rows, inputs = shape
        scales = self._tensor(f"{path}.scales", None, FLOATS)
        if len(weight.shape) != len(stack) + 2 or len(scales.shape) != len(weight.shape):
            raise self._misfit(weight, f"U32 [{_words((*stack, rows))}, ...] and scales like it")
        if not scales.shape[-1]:
            raise self._misfit(scales, f"[{_words((*stack, rows, inputs // GROUP))}]")
        symmetric = f"{path}.biases" not in self._tensors
        if symmetric and self.config.checkpoint_format != "k2mlx":
            raise CheckpointError(
                f"{scales.path}: {path} has scales and no biases: a mode of MLX other than affine, "
                "which k2mlx does not read; wanted mode affine"
            )
        mode = "symmetric" if symmetric else "affine"
        bits, group_size = weight.shape[-1] * 32 // inputs, inputs // scales.shape[-1]
        where = f"{scales.path}: {path}: "
        spec = QuantSpec.from_dict({"bits": bits, "group_size": group_size, "mode": mode}, where)
        shapes = stored_parts(rows, inputs, spec)
        parts = {"weight": self._tensor(f"{path}.weight", (*stack, *shapes["weight"]))}
        for kind in shapes.keys() - {"weight"}:
            parts[kind] = self._tensor(f"{path}.{kind}", (*stack, *shapes[kind]), FLOATS)
        return Matrix(path, mode, shape, parts, spec)

    def _tensor(
        self, name: str, shape: Shape | None, dtypes: tuple[str, ...] | None = None
    ) -> Stored:
        """A tensor that must be there, of this shape and one of these types."""
        if name not in self._tensors:
            raise CheckpointError(
                f"{self.folder}: {name}: missing; the folder looks incomplete, fetch it again"
            )
        self._used.add(name)
        got = self._tensors[name]
        if (shape is not None and got.shape != tuple(shape)) or got.dtype not in (dtypes or DTYPES):
            wanted = got.shape if shape is None else shape
            raise self._misfit(got, f"{' or '.join(dtypes or ())} [{_words(wanted)}]".strip())
        return got

    def _misfit(self, got: Stored, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{got.path}: {got.name}: got {got.dtype} {list(got.shape)}, wanted {wanted}; "
            "config.json and the weights do not belong together, fetch the folder again"
        )

    def _kept_as(self, path: str, experts: list[list[Matrix]]) -> QuantSpec | None:
        found = {(block.form, block.spec) for blocks in experts for block in blocks}
        if len(found) == 1:
            form, spec = found.pop()
            if form == "fp8":
                return K2_GRID if is_stack(path) else EIGHT_BITS
            return spec
        return finest(spec for _, spec in found)

    def _joined_kv_b(self, path: str, shape: Shape) -> Matrix:
        c, attention = self.config, path.removesuffix("kv_b_proj")
        heads, nope, value = c.num_attention_heads, c.qk_nope_head_dim, c.v_head_dim
        keys = self._stack(f"{attention}embed_q", heads, c.kv_lora_rank, nope)
        values = self._stack(f"{attention}unembed_out", heads, value, c.kv_lora_rank)
        pairs = tuple(zip(keys, values, strict=True))
        parts = {f"{i}": part for k, v in pairs for i, part in enumerate(k.parts.values())}
        spec = None if pairs[0][1].form == "plain" else pairs[0][1].spec
        return HeadMatrices(path, "heads", (shape[0], shape[1]), parts, spec, pairs)

    def _compare_with_config(self) -> None:
        """config.json and tensors must say the same of the quantisation: one of them is of another
        model otherwise."""
        claimed, forms = self.config.checkpoint_format, {self.form(p) for p in self._blocks}
        found = ", ".join(sorted(forms))
        # Of int4 the experts alone are, of which the first layers have none.
        due = claimed == "fp8" or (claimed == "int4" and any(map(is_stack, self._blocks)))
        if due and claimed not in forms:
            raise self._disagreement(f"config.json says {claimed}, the tensors are {found}")
        if self.config.quantization is None:
            if claimed not in ("int4", "fp8") and not forms <= {"plain", "heads"}:
                what = f"config.json names no quantisation, the tensors are {found}"
                raise self._disagreement(what)
            return
        for path, spec in self.specs().items():
            said = self.config.quantization.spec(path)
            # MLX's form leaves out what is not quantised; what mlx-lm cuts has other names there.
            silent = claimed == "mlx" and (spec is None or self.form(path) == "heads")
            if said != spec and not silent:
                raise self._disagreement(f"{path}: config.json says {said}, it is {spec}")

    def _disagreement(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {what}; config.json and the weights do not belong together, fetch "
            "the folder again"
        )

    def _inspect_leftovers(self) -> None:
        unknown = self._tensors.keys() - self._used
        if unknown:
            first = self._tensors[min(unknown)]
            raise CheckpointError(
                f"{first.path}: got {first.name}, which is not part of this model ({len(unknown)} "
                "such tensors); config.json and the weights do not belong together, fetch the "
                "folder again"
            )


def is_stack(path: str) -> bool:
    """Whether the matrix at this module path is one for each expert."""
    return path.rpartition(".")[0].endswith(".mlp.experts")


def _words(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def summarize(specs: dict[str, QuantSpec | None]) -> Quantization:
    """Module path -> spec as one spec a kind of matrix, the commonest, and the others by path."""
    found: dict[str, Counter[QuantSpec | None]] = defaultdict(Counter)
    for path, spec in specs.items():
        found[Quantization.kind(path)][spec] += 1
    common = {kind: counts.most_common(1)[0][0] for kind, counts in found.items()}
    others = {p: spec for p, spec in specs.items() if spec != common[Quantization.kind(p)]}
    return Quantization(**common, modules=others)

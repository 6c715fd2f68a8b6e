"""A checkpoint of any layout to one that k2mlx, or mlx-lm, loads as it stands.

Each layer becomes a file. What is finished is written in the manifest, so a run that was stopped
goes on after the last whole file; the folder gets its name when all of them are there. Peak
memory: the largest stack of a layer for each job.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..config import ModelConfig, Quantization, QuantSpec
from ..errors import CheckpointError
from ..fields import parse_json
from ..home import PARTIAL, locked
from ..nn.quant import check_groups, symmetric_biases
from .files import INDEX
from .hashes import hash_file
from .matrix import K2_GRID, stored_parts
from .names import module_tensors
from .source import EIGHT_BITS, Source, is_stack, summarize
from .write import ASIDE, Planned, check_room, write_json, write_safetensors

MANIFEST = "manifest.json"
LAYOUTS = ("k2mlx", "mlx")
# Beside the weights: what a folder needs to be a model. No code is copied.
COMPANIONS = (
    "generation_config.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.json",
    "tiktoken.model", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "LICENSE",
)  # fmt: skip
KEEP, AUTO = "keep", "auto"
# `k2mlx eval precision`: 8 bits cost little more than rounding to bfloat16 does (source.py).
CHEAP = {"experts": K2_GRID, "rest": EIGHT_BITS, "lm_head": EIGHT_BITS, "embed_tokens": None}


@dataclass(frozen=True)
class Options:
    """What to make of each kind of matrix: a QuantSpec, None for bfloat16, "keep" or "auto".
    `layout`: see LAYOUTS.

    keep: as it is stored; fp8, which MLX lacks, as Source.specs says. auto: what is quantised is
    kept, and what is in floating point becomes what costs little for its bytes: experts K2's grid,
    attention, shared experts, dense layers and head 8 bits; the embedding, of which a token reads
    one row, stays.
    """

    experts: QuantSpec | str | None = AUTO
    rest: QuantSpec | str | None = AUTO
    embed_tokens: QuantSpec | str | None = AUTO
    lm_head: QuantSpec | str | None = AUTO
    layout: str = "k2mlx"

    def specs(self, source: Source) -> dict[str, QuantSpec | None]:
        """How each matrix of `source` will be stored, by module path."""
        specs = {}
        for path, kept in source.specs().items():
            kind = Quantization.kind(path)
            wanted = getattr(self, kind)
            if wanted == AUTO and kept is None:
                specs[path] = CHEAP[kind]
            else:
                specs[path] = kept if isinstance(wanted, str) else wanted
        return specs

    def fingerprint(self, source: Source) -> str:
        """The same for equal options that mean the same: `auto` may become something else."""
        specs = {path: spec and asdict(spec) for path, spec in self.specs(source).items()}
        content = json.dumps([asdict(self), specs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """The files of a conversion, and what each holds."""

    source: Source
    options: Options
    files: dict[str, list[Planned]]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensors in self.files.values() for tensor in tensors)

    def write(self, folder: Path, name: str) -> str:
        """Write one of `files`; returns its SHA-256."""
        return write_safetensors(folder / name, self.files[name], self._values(name))

    def _values(self, name: str) -> Iterator[mx.array]:
        config, specs = self.source.config, self.options.specs(self.source)
        for module, _ in _by_file(config)[name]:
            path = module.removesuffix(".weight")
            if path not in specs:
                yield _plain(self.source, module)
            else:
                yield from (value for _, value in self._parts(path, specs[path]))

    def _parts(self, path: str, spec: QuantSpec | None) -> Iterator[tuple[str, mx.array]]:
        """The tensors of a matrix in this layout, name and value."""
        parts = self.source.matrix(path, spec)
        if self.options.layout == "mlx" and spec is not None and spec.mode == "symmetric":
            parts["biases"] = symmetric_biases(parts["scales"])
        for kind in list(parts):
            value = parts.pop(kind)
            for name, begin, end in _names(path, value.shape[-2], self.options.layout):
                yield f"{name}.{kind}", value[..., begin:end, :]


def plan(source: Source, options: Options) -> Plan:
    """What `convert` would write."""
    if options.layout not in LAYOUTS:
        raise ValueError(f"layout: got {options.layout!r}, wanted one of {LAYOUTS}")
    specs = options.specs(source)
    files = {}
    for name, modules in _by_file(source.config).items():
        files[name] = [
            tensor
            for module, shape in modules
            for tensor in _planned(module, shape, specs, source, options.layout)
        ]
    return Plan(source, options, files)


def convert(
    folder: Path,
    out: Path,
    options: Options,
    *,
    jobs: int = 1,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Path:
    """Convert the model in `folder` to a new folder `out`; returns it.

    `report(bytes done, bytes in all, file)` is called after each file. A run that stopped is gone
    on with by the same call; what it wrote stands in `OUT.partial` until the end.
    Raises CheckpointError where the source is damaged, `out` exists or the disk is too small.
    """
    if os.path.lexists(out):
        raise CheckpointError(f"{out}: exists already; give another folder, or remove it first")
    source = Source(folder, ModelConfig.load(folder))
    work = plan(source, options)
    partial = out.with_name(out.name + PARTIAL)
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial):
        _write(work, partial, jobs, report)
        os.replace(partial, out)
    return out


def _write(work: Plan, partial: Path, jobs: int, report: Callable[[int, int, str], None]) -> None:
    """Everything that `partial` lacks."""
    manifest = _open_manifest(partial, work)
    for stale in partial.glob(f"*{ASIDE}"):  # of a run that was killed
        stale.unlink()
    files = manifest["files"]
    missing = [name for name in work.files if not _is_whole(partial / name, files.get(name))]
    sizes = {name: sum(tensor.nbytes for tensor in work.files[name]) for name in work.files}
    check_room(partial, sum(sizes[name] for name in missing))
    done = work.nbytes - sum(sizes[name] for name in missing)
    report(done, work.nbytes, "")
    for name, digest in _write_all(work, partial, missing, jobs):
        files[name] = _entry(partial / name, f"sha256:{digest}")
        write_json(partial / MANIFEST, manifest)
        done += sizes[name]
        report(done, work.nbytes, name)
    if work.source.fingerprint() != manifest["source"]["sha256"]:
        raise CheckpointError(
            f"{work.source.folder}: changed while it was converted; remove {partial} and run the "
            "same command again"
        )
    _finish(work, partial, manifest)


def _write_all(work: Plan, partial: Path, names: list[str], jobs: int) -> Iterator[tuple[str, str]]:
    if jobs == 1 or len(names) < 2:
        yield from ((name, work.write(partial, name)) for name in names)
        return
    context = get_context("spawn")  # a forked process cannot use MLX's threads
    ended, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(jobs, len(names)), context, initializer=_end_with, initargs=(ended,)
    )
    with alive, ended, pool:
        folder = work.source.folder
        try:
            todo = {pool.submit(_write_one, folder, partial, work.options, n): n for n in names}
            for future in as_completed(todo):
                yield todo[future], future.result()
        except BrokenProcessPool:
            raise CheckpointError(
                f"{partial}: a job was killed, for want of memory perhaps; run the same command "
                f"again with fewer --jobs than {jobs}, it goes on where this one stopped"
            ) from None
        finally:
            alive.close()  # where something failed, nobody waits for files that are half done
            pool.shutdown(cancel_futures=True)


def _end_with(ended: Connection) -> None:
    """In a job's process: end at once when the process that started it does, even if by a kill.
    It would go on writing otherwise, below the next run's feet, and then wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's to answer

    def wait() -> None:
        ended.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_one(folder: Path, partial: Path, options: Options, name: str) -> str:
    return plan(Source(folder, ModelConfig.load(folder)), options).write(partial, name)


def _by_file(config: ModelConfig) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """The module tree's tensors by the file that gets them: embedding, each layer, the rest."""
    groups: list[list[tuple[str, tuple[int, ...]]]] = [
        [] for _ in range(config.num_hidden_layers + 2)
    ]
    for name, shape in module_tensors(config):
        if name.startswith("model.layers."):
            groups[int(name.split(".")[2]) + 1].append((name, shape))
        else:
            groups[0 if name.startswith("model.embed_tokens.") else -1].append((name, shape))
    count = len(groups)
    return {f"model-{i + 1:05d}-of-{count:05d}.safetensors": g for i, g in enumerate(groups)}


def _planned(
    module: str,
    shape: tuple[int, ...],
    specs: dict[str, QuantSpec | None],
    source: Source,
    layout: str,
) -> Iterator[Planned]:
    path = module.removesuffix(".weight")
    if path not in specs:
        yield Planned(module, _plain_dtype(module), shape)
        return
    spec = specs[path]
    if spec is not None:
        check_groups(shape[-1], spec, path)
    dtypes = source.dtypes(path, spec)
    parts = stored_parts(shape[-2], shape[-1], spec)
    if layout == "mlx" and spec is not None and spec.mode == "symmetric":
        parts["biases"] = parts["scales"]
    for kind, (rows, columns) in parts.items():
        for name, begin, end in _names(path, rows, layout):
            dtype = dtypes.get(kind, dtypes.get("scales", "BF16"))
            yield Planned(f"{name}.{kind}", dtype, (*shape[:-2], end - begin, columns))


def _names(path: str, rows: int, layout: str) -> Iterator[tuple[str, int, int]]:
    """The names under which a layout stores a matrix, and the rows that each gets."""
    if layout == "k2mlx" or not is_stack(path):
        yield path, 0, rows
    elif path.endswith(".gate_up_proj"):
        stem = path.replace(".mlp.experts.gate_up_proj", ".mlp.switch_mlp")
        yield f"{stem}.gate_proj", 0, rows // 2
        yield f"{stem}.up_proj", rows // 2, rows
    else:
        yield path.replace(".mlp.experts.", ".mlp.switch_mlp."), 0, rows


def _plain_dtype(name: str) -> str:
    return "F32" if name.endswith("e_score_correction_bias") else "BF16"


def _plain(source: Source, name: str) -> mx.array:
    value = source.plain(name)
    return value.astype(mx.float32 if _plain_dtype(name) == "F32" else mx.bfloat16)


def _open_manifest(partial: Path, work: Plan) -> dict[str, Any]:
    """The manifest of a run that stopped, or a new one; CheckpointError if it is of another
    conversion, or if the folder is not ours."""
    source, options = work.source, work.options
    fresh: dict[str, Any] = {
        "source": {"folder": str(source.folder), "sha256": source.fingerprint()},
        "options": {"sha256": options.fingerprint(source), **asdict(options)},
        "files": {},
    }
    path = partial / MANIFEST
    if path.is_file():
        try:
            found = parse_json(path.read_bytes())
            same = all(found[k]["sha256"] == fresh[k]["sha256"] for k in ("source", "options"))
            found["files"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            same = False
        if not same:
            raise CheckpointError(
                f"{partial}: holds a conversion of another source or with other options; remove "
                "it, or give another folder"
            )
        return found
    if foreign := [file.name for file in partial.iterdir() if file.suffix != ASIDE]:
        raise CheckpointError(
            f"{partial}: holds {min(foreign)}, which no conversion wrote; move it away, or give "
            "another folder"
        )
    write_json(path, fresh)
    return fresh


def _entry(path: Path, hashed: str) -> dict[str, Any]:
    return {"size": path.stat().st_size, "hash": hashed}


def _is_whole(path: Path, entry: dict[str, Any] | None) -> bool:
    return entry is not None and path.is_file() and path.stat().st_size == entry["size"]


def _finish(work: Plan, partial: Path, manifest: dict[str, Any]) -> None:
    """The files beside the weights; config.json last."""
    folder = work.source.folder
    beside = [INDEX, "config.json"]
    for name in COMPANIONS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, partial / name)
            beside.append(name)
    where = {tensor.name: name for name, tensors in work.files.items() for tensor in tensors}
    index = {"metadata": {"total_size": work.nbytes}, "weight_map": where}
    write_json(partial / INDEX, index)
    write_json(partial / "config.json", _config(work))
    for name in beside:
        manifest["files"][name] = _entry(partial / name, hash_file(partial / name, "sha256"))
    write_json(partial / MANIFEST, manifest)


def _config(work: Plan) -> dict[str, Any]:
    specs = work.options.specs(work.source)
    quantization = summarize(specs) if any(specs.values()) else None
    config = replace(work.source.config, quantization=quantization, checkpoint_format="k2mlx")
    content = config.to_dict()
    if quantization is None:
        content["checkpoint_format"] = "bf16"
    elif work.options.layout == "mlx":
        content["quantization"] = _mlx_quantization(specs)
        del content["checkpoint_format"]
    return content


def _mlx_quantization(specs: dict[str, QuantSpec | None]) -> dict[str, Any]:
    """MLX's form: the experts' for all, the others by path."""
    found = sorted((p for p, spec in specs.items() if spec), key=is_stack)
    common = specs[found[-1]]
    assert common is not None  # without any there is nothing to say
    content: dict[str, Any] = {"group_size": common.group_size, "bits": common.bits}
    for path, spec in specs.items():
        for name, _, _ in _names(path, 2, "mlx"):
            if spec is None:
                content[name] = False
            elif (spec.group_size, spec.bits) != (common.group_size, common.bits):
                content[name] = {"group_size": spec.group_size, "bits": spec.bits}
    return content

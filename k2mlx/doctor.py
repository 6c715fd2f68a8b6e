"""Whether this machine computes what it should: the check a Mac owner runs and reports.

Two checks. The golden logits of a model, stored with it, are computed again on this device. And
the quantised gather, on which every expert runs, is compared with NumPy at the sizes where MLX's
kernels have been wrong on some chips without saying so: inner sizes that 64 does not divide, and
more than 32,768 rows whose number 64 does not divide (mlx issues 3887 and 3856).

Errors are max|got - wanted| / max|wanted|.
"""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx
import numpy as np

from k2mlx import blas
from k2mlx.errors import CheckpointError
from k2mlx.home import write_private
from k2mlx.load import Loaded

GOLDEN = "golden.json"
INNER_SIZES = (32, 64, 96, 256, 288)
GROUP = 32
EXPERTS = 8
OUTPUTS = 64

# What rounding alone may cost. Tensor cores and Apple's neural accelerators may multiply float32
# with 10 bits of mantissa, hence the wider bound on a GPU.
TOLERANCE = {("cpu", "float32"): 1e-4, ("gpu", "float32"): 5e-3, ("gpu", "bfloat16"): 1e-1}
KERNEL_TOLERANCE = {"float32": 5e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Check:
    """One comparison. `error` is None where it could not be made; `note` then says why."""

    name: str
    ok: bool
    error: float | None
    limit: float | None
    note: str = ""


def device() -> str:
    """'cpu' or 'gpu'."""
    return "cpu" if mx.default_device() == mx.cpu else "gpu"


# --- The machine ---------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """Versions, chip and memory, as a report about a fault needs them. Units: bytes."""
    info = mx.device_info()
    memory = {key: value for key, value in info.items() if isinstance(value, int)}
    return {
        "k2mlx": _version("k2mlx"),
        "mlx": _version("mlx"),
        "python": platform.python_version(),
        "os": _system(),
        "chip": _chip(),
        "device": f"{device()} ({info.get('device_name', 'unnamed')})",
        "memory_limit": mx.get_memory_limit(),
        "device_memory": memory,
        "blas": blas.status() if device() == "cpu" else "not used on a GPU",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _chip() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


# --- The quantised gather ------------------------------------------------------------------------


@dataclass(frozen=True)
class Experts:
    """Quantised matrices whose every value is known without asking MLX.

    weight uint32 [E, O, I/8], scales and biases [E, O, I/32]; dense float32 [E, O, I] is what they
    stand for.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array
    dense: np.ndarray


def make_experts(inner: int, dtype: mx.Dtype, rng: np.random.Generator) -> Experts:
    """Random codes on K2's grid: value = (nibble - 8) * scale, scales powers of two, so exact."""
    nibbles = rng.integers(1, 16, (EXPERTS, OUTPUTS, inner), dtype=np.uint32)
    scales = 2.0 ** rng.integers(-5, -2, (EXPERTS, OUTPUTS, inner // GROUP))
    words = nibbles.reshape(EXPERTS, OUTPUTS, inner // 8, 8) << np.arange(0, 32, 4, dtype=np.uint32)
    dense = (nibbles.astype(np.float32) - 8) * np.repeat(scales, GROUP, axis=-1)
    return Experts(
        mx.array(words.sum(axis=-1, dtype=np.uint32)),
        mx.array(scales).astype(dtype),
        mx.array(-8 * scales).astype(dtype),
        dense.astype(np.float32),
    )


def gather(x: mx.array, experts: Experts, chosen: mx.array, in_order: bool) -> mx.array:
    """x [N, I], each row through its chosen matrix -> [N, O]; the call that nn/quant.py makes."""
    out = mx.gather_qmm(
        x[:, None],
        experts.weight,
        experts.scales,
        experts.biases,
        rhs_indices=chosen,
        transpose=True,
        group_size=GROUP,
        bits=4,
        sorted_indices=in_order,
    )
    return out[:, 0]


def check_gather(
    inner: int, rows: int, in_order: bool, dtype: mx.Dtype, gather: Callable = gather
) -> Check:
    """Compare the quantised gather with NumPy for one size."""
    name = str(dtype).removeprefix("mlx.core.")
    rng = np.random.default_rng([inner, rows, in_order])
    experts = make_experts(inner, dtype, rng)
    chosen = rng.integers(0, EXPERTS, rows, dtype=np.uint32)
    if in_order:
        chosen.sort()
    x = mx.array(rng.standard_normal((rows, inner), dtype=np.float32)).astype(dtype)
    got = np.array(gather(x, experts, mx.array(chosen), in_order).astype(mx.float32))
    x_np = np.array(x.astype(mx.float32))
    wanted = np.empty((rows, OUTPUTS), np.float32)
    for expert in range(EXPERTS):
        wanted[chosen == expert] = x_np[chosen == expert] @ experts.dense[expert].T
    order = "sorted" if in_order else "unsorted"
    return compare(f"gather {inner}x{rows} {order} {name}", got, wanted, KERNEL_TOLERANCE[name])


def gather_sizes() -> Iterator[tuple[int, int, bool]]:
    """(inner size, rows, sorted) to check: all inner sizes at few rows, and past 32,768 rows."""
    for in_order in (True, False):
        for inner in INNER_SIZES:
            yield inner, 77, in_order
        yield 96, 32_833, in_order


def check_kernels() -> list[Check]:
    """The canary, in the number formats that models run in on this device."""
    dtypes = [mx.float32] if device() == "cpu" else [mx.float32, mx.bfloat16]
    return [check_gather(*size, dtype) for dtype in dtypes for size in gather_sizes()]


# --- Golden logits -------------------------------------------------------------------------------


def golden_prompts(vocabulary: int) -> list[list[int]]:
    """A short and a long prompt: the long one's experts run through the sorted gather."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, vocabulary, length).tolist() for length in (9, 150)]


def last_logits(loaded: Loaded, ids: list[int], cached: bool) -> np.ndarray:
    """Logits [V] after the last id; `cached`: the last id is decoded from a cache of the others."""
    tokens = mx.array([ids])
    cache = loaded.model.make_cache() if cached else None
    if cached:
        loaded.model.hidden(tokens[:, :-1], cache)
        tokens = tokens[:, -1:]
    hidden = loaded.model.hidden(tokens, cache)
    return np.array(loaded.model.head(hidden[:, -1:])[0, -1].astype(mx.float32))


def write_golden(loaded: Loaded, top: int = 16) -> Path:
    """Store the largest logits after each golden prompt beside the model. For float32 on a CPU."""
    cases = []
    for ids in golden_prompts(loaded.config.vocab_size):
        logits = last_logits(loaded, ids, cached=False)
        best = np.argsort(-logits, kind="stable")[:top]
        values = [round(float(logits[i]), 6) for i in best]
        cases.append({"ids": ids, "top": best.tolist(), "logits": values})
    made = {"mlx": _version("mlx"), "device": device(), "chip": _chip()}
    golden = {"weights_sha256": weights_hash(loaded.path), "made": made, "cases": cases}
    path = loaded.path / GOLDEN
    write_private(path, json.dumps(golden) + "\n")
    path.chmod(0o644)  # it is published with the model
    return path


def weights_hash(folder: Path) -> str:
    """sha256 over the model's safetensors files, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_golden(loaded: Loaded) -> list[Check]:
    """Compare with the stored logits: the whole prompt at once, and its last token from a cache."""
    path = loaded.path / GOLDEN
    if not path.is_file():
        return [Check("golden", False, None, None, f"{path} is missing, nothing to compare with")]
    try:
        golden = json.loads(path.read_text())
        belongs = golden["weights_sha256"]
        cases = [(case["ids"], case["top"], np.array(case["logits"])) for case in golden["cases"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not golden logits ({error!r}); fetch the model again"
        ) from error
    if belongs != weights_hash(loaded.path):
        note = f"{path} was made from other weights; one of the two is damaged or out of date"
        return [Check("golden", False, None, None, note)]
    name = str(loaded.model.embed(mx.array([[0]])).dtype).removeprefix("mlx.core.")
    limit = TOLERANCE.get((device(), name), 1e-1)
    checks = []
    for ids, top, wanted in cases:
        for cached in (False, True):
            got = last_logits(loaded, ids, cached)[top]
            how = "decode" if cached else "prefill"
            checks.append(compare(f"golden {len(ids)} tokens {how} {name}", got, wanted, limit))
    return checks


def compare(name: str, got: np.ndarray, wanted: np.ndarray, limit: float) -> Check:
    """Whether max|got - wanted| / max|wanted| is within the limit."""
    if not np.isfinite(got).all():
        return Check(name, False, None, limit, "not finite")
    error = float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))
    return Check(name, error <= limit, error, limit)

"""How much memory there is for caches, and for kept prefixes where nobody says it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from k2mlx.config import ModelConfig
from k2mlx.load import default_dtype

SHARE = 10  # the store takes one part in ten of what loading the model has left
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class PrefixSettings:
    """Where earlier requests' caches are kept, in bytes.

    memory: None is a tenth of what is free once the model is loaded. disk: 0 keeps nothing there,
    None is the default of `disk.default_budget`. folder: None is `disk.default_folder()`.
    """

    memory: int | None = None
    disk: int | None = 0
    folder: Path | None = None


def default_budget() -> int:
    """Bytes: a tenth of the free memory, so that prompts under way and other programs have the
    rest. For K2, 70 kB a token, 100 GB free are 140,000 tokens."""
    return free_memory() // SHARE


def row_bytes(config: ModelConfig, layers: int) -> int:
    """Bytes that a token takes in the caches of so many layers: 70 kB of K2's in bfloat16."""
    width = config.kv_lora_rank + config.qk_rope_head_dim
    return layers * width * default_dtype().size


def free_memory() -> int:
    """Bytes that the default device has left for MLX: of Metal's recommended working set, of the
    GPU's memory, or of what the system can give to programs."""
    info = mx.device_info()
    for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        if isinstance(size := info.get(key), int) and size > 0:
            return max(0, size - mx.get_active_memory())
    return system_memory()


def system_memory() -> int:
    """Bytes of main memory that are free or hold only copies of files, by Linux; elsewhere all
    that MLX does not use."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(0, size - mx.get_active_memory())

"""What the figures were taken on: the device, the versions and the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from k2mlx import __version__, blas


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU (Metal or CUDA)."""
    return mx.default_device() != mx.cpu


def about() -> dict[str, Any]:
    """Device, versions and commit, the same in every row of a run."""
    info = mx.device_info()
    return {
        "machine": str(info.get("device_name", platform.processor())),
        "device": "gpu" if on_gpu() else "cpu",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "blas": blas.status(),
        "k2mlx_version": __version__,
        "mlx_version": version("mlx"),
        "mlx_lm_version": version("mlx-lm"),
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of this checkout, `+` where files differ from it; K2MLX_COMMIT where a copy of it
    runs without its history; None where neither says."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("K2MLX_COMMIT")
    return head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()

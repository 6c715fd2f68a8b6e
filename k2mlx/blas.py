"""OpenBLAS for MLX on a Linux CPU.

MLX's Linux CPU wheel links netlib's reference BLAS, whose float32 matmul runs at 2 to 3.5 GFLOP/s
on two cores. A library loaded earlier with global symbols is found first by the dynamic linker, so
loading OpenBLAS before `mlx.core` replaces it (8 to 13 GFLOP/s). It is optional: where it is
missing everything works, slower. On Debian: `apt-get install libopenblas0-pthread`.

Set K2MLX_BLAS=0 to keep MLX's own BLAS.
"""

import ctypes
import os
import sys

LIBRARY = "libopenblas.so.0"

_status = "not looked for"


def preload() -> str:
    """Load OpenBLAS if it would help and is there; returns and remembers what happened."""
    global _status
    if not sys.platform.startswith("linux"):
        _status = "the system's own"
    elif os.environ.get("K2MLX_BLAS") == "0":
        _status = "MLX's own (K2MLX_BLAS=0)"
    elif "mlx.core" in sys.modules and _status == "not looked for":
        _status = "MLX's own (mlx was imported before k2mlx)"
    elif _status != LIBRARY:
        try:
            ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
            _status = LIBRARY
        except OSError:
            _status = f"MLX's own ({LIBRARY} not found)"
    return _status


def status() -> str:
    """Which BLAS MLX's CPU matmuls use, in words."""
    return _status

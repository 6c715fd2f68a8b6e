"""k2mlx: Kimi K2 on Apple's MLX, from talking to it to training it.

Reading order for a newcomer: README.md, then `config.py`, `nn/rope.py`, `nn/mla.py`, `nn/moe.py`,
`model.py`, `cache.py`, `generate/engine.py`: the whole model, about a thousand lines. Then one of

- talking: `tokenizer.py`, `chat/`, `agent/`, and the page in `apps/chat`;
- weights: `weights/`, `nn/quant.py`, `load.py`;
- learning: `data/`, `train/`, `synth/`, `eval/`.

Three names are offered here and imported when first used: `load`, `generate`, `stream`.

    from k2mlx import generate

    print(generate("models/k2-nano", "What is 1234 * 5678?"))
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from k2mlx import blas

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load", "stream"]

_LAZY = {"load": "k2mlx.load", "generate": "k2mlx.generate", "stream": "k2mlx.generate"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'k2mlx' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


class _Package(ModuleType):
    """Keeps `k2mlx.load` and `k2mlx.generate` the functions, whatever was imported before.

    Importing the submodule of the same name would otherwise rebind them to the module, so that
    what a caller gets would depend on the order of imports. `from k2mlx.load import ...` is
    unaffected.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
blas.preload()  # before anything can import mlx

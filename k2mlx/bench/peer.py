"""Our weights in mlx-lm's module tree: the same arrays, or the same codes cut differently.

mlx-lm keeps an expert's gate and up as two stacks, and kv_b_proj as embed_q and unembed_out. The
first is a split of rows, which takes memory of its own. The second its own loader makes by
dequantising, cutting by head and quantising again along another side, which changes values a
little: so logits are compared while the two are in floating point, where the cut is exact, and
`store_kv_b` then does what mlx-lm's loader would have done, for the clock.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from k2mlx.config import ModelConfig, QuantSpec, module_path
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.nn.quant import QuantizedMatrix

KV_B = ("embed_q", "unembed_out")


def build(loaded: Loaded) -> nn.Module:
    """mlx-lm's deepseek_v3 with the weights of a model that was loaded as stored, in their dtype
    and quantisation; embed_q and unembed_out in floating point until `store_kv_b`."""
    from mlx_lm.models import deepseek_v3

    config = loaded.config
    peer = deepseek_v3.Model(deepseek_v3.ModelArgs.from_dict(config.to_dict()))
    weights = peer.sanitize(_expand_kv_b(_renamed(_with_biases(loaded.model)), config))

    def stored(path: str, module: nn.Module) -> dict[str, Any] | bool:
        spec = _spec(config, path)
        if spec is None or f"{path}.scales" not in weights:
            return False
        return {"group_size": spec.group_size, "bits": spec.bits}

    nn.quantize(peer, class_predicate=stored)
    peer.load_weights(list(weights.items()))
    peer.eval()
    return peer


def store_kv_b(peer: nn.Module, config: ModelConfig) -> None:
    """Quantise embed_q and unembed_out as kv_b_proj is, if it is: mlx-lm's `sanitize`."""

    def stored(path: str, module: nn.Module) -> dict[str, Any] | bool:
        spec = _spec(config, path)
        if not path.endswith(KV_B) or spec is None:
            return False
        return {"group_size": spec.group_size, "bits": spec.bits}

    nn.quantize(peer, class_predicate=stored)
    mx.eval(peer.parameters())


def _with_biases(model: Model) -> dict[str, mx.array]:
    """Every array of the model, and the biases that K2's grid leaves out."""
    weights = model.named_parameters()
    for path, module in model.named_modules():
        if isinstance(module, QuantizedMatrix):
            weights[f"{path}.biases"] = module.parts[2]
    return weights


def _renamed(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Experts under mlx-lm's names, gate and up apart."""
    out = {}
    for name, value in weights.items():
        prefix, found, kind = name.partition(".mlp.experts.")
        if not found:
            out[name] = value
        elif kind.startswith("down_proj."):
            out[f"{prefix}.mlp.switch_mlp.{kind}"] = value
        else:
            part = kind.removeprefix("gate_up_proj.")
            for half, stack in zip(
                ("gate_proj", "up_proj"), mx.split(value, 2, axis=1), strict=True
            ):
                out[f"{prefix}.mlp.switch_mlp.{half}.{part}"] = mx.contiguous(stack)
    return out


def _expand_kv_b(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    out = dict(weights)
    for name in weights:
        stem = name.removesuffix("scales")
        if name.endswith("kv_b_proj.scales"):
            parts = [out.pop(stem + part) for part in ("weight", "scales", "biases")]
            spec = _spec(config, stem)
            assert spec is not None
            out[stem + "weight"] = mx.dequantize(*parts, group_size=spec.group_size, bits=spec.bits)
    return out


def _spec(config: ModelConfig, path: str) -> QuantSpec | None:
    """How mlx-lm's module of this path is stored."""
    for name in KV_B:
        path = path.replace(f".{name}", ".kv_b_proj")
    return config.spec(module_path(path).rstrip("."))

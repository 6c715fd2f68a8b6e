"""Our weights in mlx-lm's module tree: the same codes, another cut.

mlx-lm keeps an expert's gate and up as two stacks, and kv_b_proj as embed_q and unembed_out. The
first is a split of rows. The second its own loader makes by dequantising, cutting by head and
quantising again along another side, which changes values a little: so the peer that is timed
does that, and the one whose logits are compared keeps the two in floating point, where the cut is
exact.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from k2mlx.config import ModelConfig, QuantSpec
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.nn.quant import QuantizedMatrix


def build(loaded: Loaded, *, exact: bool = False) -> nn.Module:
    """mlx-lm's deepseek_v3 with the weights of a loaded model, in their dtype and quantisation.

    exact: keep embed_q and unembed_out in floating point.
    """
    from mlx_lm.models import deepseek_v3

    config = loaded.config
    weights = _renamed(_with_biases(loaded.model))
    if exact:
        weights = _expand_kv_b(weights, config)
    peer = deepseek_v3.Model(deepseek_v3.ModelArgs.from_dict(config.to_dict()))
    weights = peer.sanitize(weights)

    def stored(path: str, module: nn.Module) -> dict[str, Any] | bool:
        spec = _spec(config, path)
        if spec is None or f"{path}.scales" not in weights:
            return False
        return {"group_size": spec.group_size, "bits": spec.bits}

    nn.quantize(peer, class_predicate=stored)
    peer.load_weights(list(weights.items()))
    peer.eval()
    mx.eval(peer.parameters())
    return peer


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
    quantization = config.quantization
    if quantization is None:
        return None
    if ".switch_mlp." in path:
        return quantization.experts
    if path == "lm_head":
        return quantization.lm_head
    return quantization.embed_tokens if path == "model.embed_tokens" else quantization.rest

"""`k2mlx eval precision`: what each part of a model costs in a smaller form.

One part at a time is quantised, all others stay as they are in floating point, and the distance to
the whole model in floating point is measured over the tokens of a text:
KL(p || q) = sum_v p_v (log p_v - log q_v), in nats a token, its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from k2mlx.cache import LatentCache
from k2mlx.config import QuantSpec
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.nn.quant import fake_quantize
from k2mlx.weights.load import dequantize_weights

WINDOW = 512
PARTS = {
    "attention": (".self_attn.",),
    "shared experts": (".mlp.shared_experts.",),
    "dense layers": (".mlp.gate_proj.", ".mlp.up_proj.", ".mlp.down_proj."),
    "embedding": ("model.embed_tokens.",),
    "head": ("lm_head.",),
    "routed experts": (".mlp.experts.",),
}


@dataclass(frozen=True)
class Cost:
    """Part, form, the mean KL in nats a token and the largest, and the share of tokens whose most
    probable continuation changes."""

    part: str
    form: str
    kl: float
    largest: float
    flips: float


def measure(
    loaded: Loaded,
    text: str,
    forms: dict[str, QuantSpec | None],
    max_tokens: int,
    on_cost: Callable[[Cost], None] = lambda cost: None,
) -> list[Cost]:
    """Quantise part by part. `loaded` must be as stored (load(..., as_stored=True)); its own
    rounding is not measured: its values in float32 are what is compared with. A form of None is
    bfloat16: the distance that is no loss."""
    tokens = loaded.tokenizer.encode(text)[:max_tokens]
    config = replace(loaded.config, quantization=None)
    weights = dequantize_weights(loaded.model.named_parameters(), loaded.config)
    model = Model(config)
    model.load_weights(list(weights.items()))
    wanted = list(log_probabilities(model, tokens))
    costs = []
    for part, marks in PARTS.items():
        mine = {k: w for k, w in weights.items() if w.ndim > 1 and any(m in k for m in marks)}
        for form, spec in forms.items():
            if not mine or (spec and any(w.shape[-1] % spec.group_size for w in mine.values())):
                continue
            rounded = {name: _rounded(w, spec) for name, w in mine.items()}
            model.load_weights(list(rounded.items()), strict=False)
            costs.append(distance(part, form, wanted, log_probabilities(model, tokens)))
            on_cost(costs[-1])
        model.load_weights(list(mine.items()), strict=False)
    return costs


def _rounded(w: mx.array, spec: QuantSpec | None) -> mx.array:
    return w.astype(mx.bfloat16).astype(w.dtype) if spec is None else fake_quantize(w, spec)


def distance(part: str, form: str, wanted: Sequence[mx.array], got: Iterator[mx.array]) -> Cost:
    """Of what `log_probabilities` gave, window by window."""
    kls, flips = [], []
    for p, q in zip(wanted, got, strict=True):
        kls.append(np.array((mx.exp(p) * (p - q)).sum(-1)))
        flips.append(np.array(mx.argmax(p, -1) != mx.argmax(q, -1)))
    kl, flipped = np.concatenate(kls), np.concatenate(flips)
    return Cost(part, form, float(kl.mean()), float(kl.max()), float(flipped.mean()))


def log_probabilities(
    model: Model,
    tokens: list[int],
    make_cache: Callable[[], list[LatentCache] | None] = lambda: None,
) -> Iterator[mx.array]:
    """[window, V] float32 for each window, read by itself; through a new cache each, if any."""
    for begin in range(0, len(tokens), WINDOW):
        window = mx.array([tokens[begin : begin + WINDOW]])
        logits = model(window, make_cache())[0].astype(mx.float32)
        value = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        mx.eval(value)
        yield value

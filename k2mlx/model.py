"""Kimi K2's text model: embedding, decoder layers, head; one device, no ranks.

The module tree carries the checkpoint's names; only the experts differ, which are stacked
(weights/names.py maps them). A model may hold a part of the layers, with everything under the same
names: what runs before and after them is on other devices then.

Shape letters: B batch, L tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from .cache import BatchCache, BatchLayer, LatentCache
from .config import ModelConfig
from .nn.attention import latent_attention
from .nn.mla import MLA
from .nn.moe import MLP, MoE
from .nn.quant import quantize_modules

MOST_AT_ONCE = 32  # sequences of a compiled step
Traced = Callable[..., list[mx.array]]


class DecoderLayer(nn.Module):
    """x + attention(norm x), then + feed-forward(norm x)."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.self_attn = MLA(config)
        self.mlp: MLP | MoE = (
            MLP(config.hidden_size, config.intermediate_size)
            if config.is_dense(index)
            else MoE(config)
        )
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(
        self,
        x: mx.array,
        cache: LatentCache | BatchLayer | None = None,
        segments: mx.array | None = None,
        router_load: list[mx.array] | None = None,
    ) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), cache, segments)
        return self.feed_forward(x, router_load)

    def feed_forward(self, x: mx.array, router_load: list[mx.array] | None = None) -> mx.array:
        h = self.post_attention_layernorm(x)
        return x + (self.mlp(h, router_load) if isinstance(self.mlp, MoE) else self.mlp(h))


class Elsewhere(nn.Module):
    """In the place of what another device holds."""


class Decoder(nn.Module):
    """What the checkpoints keep under `model.`: everything but the head."""

    def __init__(self, config: ModelConfig, held: range):
        super().__init__()
        first, last = 0 in held, config.num_hidden_layers - 1 in held
        self.embed_tokens: nn.Embedding | Elsewhere = (
            nn.Embedding(config.vocab_size, config.hidden_size) if first else Elsewhere()
        )
        self.layers: list[DecoderLayer | Elsewhere] = [
            DecoderLayer(config, i) if i in held else Elsewhere()
            for i in range(config.num_hidden_layers)
        ]
        self.norm: nn.RMSNorm | Elsewhere = (
            nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if last else Elsewhere()
        )


def decodes_compiled(x: mx.array) -> bool:
    """Whether DecodeStep does this step. On a CPU mx.compile would start g++ for every function."""
    B, L, _ = x.shape
    return L == 1 and B <= MOST_AT_ONCE and mx.default_device() != mx.cpu


class DecodeStep:
    """One new token a sequence, with everything between two looks into the cache compiled.

    A step is a few hundred small operations, and on a GPU building and launching them takes the
    host longer than the device computes. What lies between attention in layer i and attention in
    layer i + 1 has the same shapes at every step: so it is traced once, and its small operations
    become few. The weights are constants of the trace: `Model.update` drops it.
    """

    def __init__(self, layers: list[DecoderLayer], norm: nn.RMSNorm | None):
        self._layers, self._norm = layers, norm
        for layer in layers:
            layer.self_attn.latent_matrices()  # made here: in a trace they would be made each time
        last = len(layers) - 1
        self._enter = mx.compile(self._queries(0))
        self._between = [mx.compile(self._after_attention(i)) for i in range(last)]
        self._leave = mx.compile(self._after_attention(last))

    def __call__(self, x: mx.array, cache: list[LatentCache] | BatchCache) -> mx.array:
        """x [B, 1, H] -> states after these layers, and after the norm if there is one [B, 1, H];
        extends the cache."""
        offset = cache[0].offset
        lengths = offset if isinstance(offset, mx.array) else None
        places = mx.array([offset]) if lengths is None else lengths
        q, rows = self._enter(x, places)
        for i, layer in enumerate(self._layers):
            seen = cache[i].append(rows)
            latent = latent_attention(q, seen, layer.self_attn.scale, lengths)
            if i < len(self._between):
                x, q, rows = self._between[i](x, latent, places)
        return self._leave(x, latent, places)[0]

    def _queries(self, index: int) -> Traced:
        layer = self._layers[index]

        def queries(x: mx.array, places: mx.array) -> list[mx.array]:
            q_nope, q_rope, rows = layer.self_attn.project(layer.input_layernorm(x), places)
            return [layer.self_attn.latent_queries(q_nope, q_rope), rows]

        return queries

    def _after_attention(self, index: int) -> Traced:
        layer, last = self._layers[index], index + 1 == len(self._layers)
        queries = None if last else self._queries(index + 1)

        def after_attention(x: mx.array, latent: mx.array, places: mx.array) -> list[mx.array]:
            attention = layer.self_attn
            x = layer.feed_forward(x + attention.merge(attention.from_latent(latent)))
            if queries is not None:
                return [x, *queries(x, places)]
            return [x if self._norm is None else self._norm(x)]

        return after_attention


class Model(nn.Module):
    """tokens [B, L] -> logits [B, L, V]. Weights are lazy: nothing is allocated before it is
    used.

    held: the layers that are here, all by default; with the first comes the embedding, with the
    last the final norm and the head.
    """

    def __init__(self, config: ModelConfig, held: range | None = None):
        super().__init__()
        everything = range(config.num_hidden_layers)
        held = everything if held is None else held
        if not held or held[0] not in everything or held[-1] not in everything:
            raise ValueError(f"held: got layers {held}, wanted a part of {everything}")
        self.config, self.held = config, held
        self.model = Decoder(config, held)
        self.lm_head: nn.Linear | Elsewhere = (
            nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            if everything[-1] in held
            else Elsewhere()
        )
        if config.quantization is not None:
            quantize_modules(self, config.quantization)
        self._decode = local()

    def __call__(
        self, tokens: mx.array, cache: list[LatentCache] | BatchCache | None = None
    ) -> mx.array:
        return self.head(self.hidden(tokens, cache))

    def embed(self, tokens: mx.array) -> mx.array:
        """[B, L] -> [B, L, H] in the layers' type: training keeps the embedding in float32."""
        return self.model.embed_tokens(tokens).astype(self.dtype)

    @property
    def layers(self) -> list[DecoderLayer]:
        """Those that are here."""
        return [layer for layer in self.model.layers if isinstance(layer, DecoderLayer)]

    @property
    def dtype(self) -> mx.Dtype:
        """Of what goes from layer to layer."""
        return self.layers[0].input_layernorm.weight.dtype

    def head(self, hidden: mx.array) -> mx.array:
        """Hidden states after the final norm [..., H] -> logits [..., V]."""
        return self.lm_head(hidden)

    def hidden(
        self,
        tokens: mx.array,
        cache: list[LatentCache] | BatchCache | None = None,
        segments: mx.array | None = None,
        router_load: list[mx.array] | None = None,
    ) -> mx.array:
        """tokens [B, L] -> states after the final norm [B, L, H]; see `run`."""
        return self.run(self.embed(tokens), cache, segments, router_load)

    def run(
        self,
        x: mx.array,
        cache: list[LatentCache] | BatchCache | None = None,
        segments: mx.array | None = None,
        router_load: list[mx.array] | None = None,
    ) -> mx.array:
        """States [B, L, H] before the layers that are here -> after them, and after the final norm
        where it is here.

        cache: one LatentCache a layer, or a BatchCache with B slots; extended by L. segments [B, L]
        (without cache): tokens see only their own segment. router_load: a list that gets one [E]
        count of chosen pairs a MoE layer.
        """
        norm = self.model.norm if isinstance(self.model.norm, nn.RMSNorm) else None
        if cache is not None and decodes_compiled(x):
            # MLX's streams belong to threads, and a trace to the streams that it was made on. Every
            # thread keeps its own: engines that share a model and take turns would trace it anew
            # at each request.
            step: DecodeStep | None = getattr(self._decode, "step", None)
            if step is None:
                step = self._decode.step = DecodeStep(self.layers, norm)
            x, norm = step(x, cache), None
        else:
            for i, layer in enumerate(self.layers):
                x = layer(x, cache[i] if cache is not None else None, segments, router_load)
        if isinstance(cache, BatchCache):
            cache.advance(x.shape[1])
        return x if norm is None else norm(x)

    def make_cache(self, bits: int = 16) -> list[LatentCache]:
        """One empty cache a layer. bits: 16, the model's own type, or 8 (see cache.py)."""
        return [LatentCache(bits, self.config.kv_lora_rank) for _ in self.layers]

    def make_batch_cache(self, bits: int = 16) -> BatchCache:
        """An empty cache for several sequences that go on together; takes caches of the same
        bits."""
        return BatchCache(len(self.layers), bits, self.config.kv_lora_rank)

    def update(self, parameters: dict[str, Any], strict: bool = True) -> nn.Module:
        """As of every module; what was compiled with the old values is dropped. It is not where
        only a part of the model is told: `model.layers[0].update` needs `model.update({})` after
        it."""
        self._decode = local()
        return super().update(parameters, strict)

    def update_modules(self, modules: dict[str, Any], strict: bool = True) -> nn.Module:
        """As `update`."""
        self._decode = local()
        return super().update_modules(modules, strict)

    def named_parameters(self) -> dict[str, mx.array]:
        """Every array by its path in the module tree, such as `model.norm.weight`."""
        named: dict[str, mx.array] = {}
        tree_flatten(self.parameters(), destination=named)
        return named

    def reset(self, seed: int) -> None:
        """Start afresh for training: matrices N(0, initializer_range), norms 1, correction biases
        0."""
        std, fresh = self.config.initializer_range, {}
        named = self.named_parameters()
        keys = mx.random.split(mx.random.key(seed), len(named))
        for (name, value), key in zip(named.items(), keys, strict=True):
            if name.endswith("norm.weight"):
                fresh[name] = mx.ones(value.shape)
            elif name.endswith("e_score_correction_bias"):
                fresh[name] = mx.zeros(value.shape)
            else:
                fresh[name] = mx.random.normal(value.shape, scale=std, key=key)
        self.update(tree_unflatten(list(fresh.items())))

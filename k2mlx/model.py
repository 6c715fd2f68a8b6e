"""Kimi K2's text model: embedding, decoder layers, head; one device, no ranks.

The module tree carries the checkpoint's names; only the experts differ, which are stacked
(weights/names.py maps them). Shape letters: B batch, L tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from .cache import BatchCache, BatchLayer, LatentCache
from .config import ModelConfig
from .nn.mla import MLA
from .nn.moe import MLP, MoE
from .nn.quant import quantize_modules


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
        h = self.post_attention_layernorm(x)
        return x + (self.mlp(h, router_load) if isinstance(self.mlp, MoE) else self.mlp(h))


class Decoder(nn.Module):
    """What the checkpoints keep under `model.`: everything but the head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Model(nn.Module):
    """tokens [B, L] -> logits [B, L, V]. Weights are lazy: nothing is allocated before it is
    used."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.quantization is not None:
            quantize_modules(self, config.quantization)

    def __call__(
        self, tokens: mx.array, cache: list[LatentCache] | BatchCache | None = None
    ) -> mx.array:
        return self.head(self.hidden(tokens, cache))

    def embed(self, tokens: mx.array) -> mx.array:
        """[B, L] -> [B, L, H]."""
        return self.model.embed_tokens(tokens)

    @property
    def layers(self) -> list[DecoderLayer]:
        return self.model.layers

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
        """tokens [B, L] -> states after the final norm [B, L, H].

        cache: one LatentCache a layer, or a BatchCache with B slots; extended by L. segments [B, L]
        (without cache): tokens see only their own segment. router_load: a list that gets one [E]
        count of chosen pairs a MoE layer.
        """
        # Training keeps the embedding in float32; the layers' type is the norms'.
        x = self.embed(tokens).astype(self.model.norm.weight.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, cache[i] if cache is not None else None, segments, router_load)
        if isinstance(cache, BatchCache):
            cache.advance(tokens.shape[1])
        return self.model.norm(x)

    def make_cache(self, bits: int = 16) -> list[LatentCache]:
        """One empty cache a layer. bits: 16, the model's own type, or 8 (see cache.py)."""
        return [LatentCache(bits, self.config.kv_lora_rank) for _ in self.layers]

    def make_batch_cache(self, bits: int = 16) -> BatchCache:
        """An empty cache for several sequences that go on together; takes caches of the same
        bits."""
        return BatchCache(len(self.layers), bits, self.config.kv_lora_rank)

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

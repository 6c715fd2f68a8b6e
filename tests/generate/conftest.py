"""A scripted model: no weights, but a real cache, so that every token depends on all before it."""

import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from k2mlx.cache import LatentCache
from k2mlx.config import ModelConfig
from k2mlx.generate.engine import Engine
from k2mlx.load import Loaded
from k2mlx.tokenizer import ByteTokenizer

VOCABULARY = 17 + 256
CONTEXT = 256


def tiny_config(**changes) -> ModelConfig:
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 50000.0,
        "routed_scaling_factor": 2.0,
        "chat_format": "k2-nano",
    }
    return ModelConfig(**(values | changes))


class ScriptedModel(nn.Module):
    """Its likeliest next token is `following(all tokens in the cache)`; it records its calls.

    script: what it answers, token by token, instead (from the end of each prompt).
    permits: a semaphore that every call waits for, to hold the engine at a known place.
    fail_at: the length of the cache at which a call raises.
    """

    def __init__(self, script=None, permits=None, fail_at=None):
        super().__init__()
        self.calls, self.prefills, self.threads = [], [], set()
        self._script, self._permits, self._fail_at = script, permits, fail_at
        self._start = None

    @staticmethod
    def following(tokens) -> int:
        return 17 + (sum((i + 1) * t for i, t in enumerate(tokens)) * 31 + len(tokens)) % 256

    def named_parameters(self):
        return {}

    def make_cache(self):
        return [LatentCache(), LatentCache()]

    def _extend(self, tokens, cache):
        self.threads.add(threading.get_ident())
        if self._permits is not None:
            assert self._permits.acquire(timeout=30)
        rows = tokens.astype(mx.float32)[..., None]
        all_rows = [layer.append(rows) for layer in cache]
        if self._fail_at is not None and cache[0].offset >= self._fail_at:
            raise RuntimeError(f"device failed at {cache[0].offset}")
        return all_rows[0][0, :, 0]

    def hidden(self, tokens, cache):
        self.prefills.append(tokens.shape[1])
        self._start = None  # a new prompt
        self._extend(tokens, cache)

    def __call__(self, tokens, cache):
        self.calls.append(tokens.shape[1])
        seen = self._extend(tokens, cache)
        if self._script is not None:
            start = self._start = seen.size if self._start is None else self._start
            choice = mx.array(self._script[min(seen.size - start, len(self._script) - 1)])
        else:
            weights = mx.arange(1, seen.size + 1)
            total = (weights * seen.astype(mx.int64)).sum()
            choice = 17 + (total * 31 + seen.size) % 256
        return mx.where(mx.arange(VOCABULARY) == choice, 5.0, -500.0 if self._script else 0.0)[
            None, None
        ]


@pytest.fixture
def make_engine():
    """make_engine(model, config=..., **engine options) -> Engine, closed after the test."""
    engines = []

    def make(model=None, config=None, tokenizer=None, **options):
        loaded = Loaded(
            model or ScriptedModel(),
            tokenizer or ByteTokenizer(),
            config or tiny_config(),
            Path("models/scripted"),
        )
        engines.append(Engine(lambda: loaded, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(timeout=10)


@pytest.fixture
def scripted():
    return ScriptedModel


@pytest.fixture
def config():
    return tiny_config

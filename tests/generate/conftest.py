"""A scripted model: no weights, but a real cache, so that every token depends on all before it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from k2mlx.cache import LatentCache
from k2mlx.config import ModelConfig
from k2mlx.generate.engine import Engine
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.tokenizer import ByteTokenizer
from tests.models import TINY

VOCABULARY = 17 + 256
CONTEXT = 256


def tiny_config(**changes) -> ModelConfig:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": 2,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": (),
    }
    return replace(TINY, **(values | changes))


def load_decided(layers) -> Loaded:
    """A model whose likeliest tokens are far apart, so that rounding flips none."""
    config = tiny_config(num_hidden_layers=layers, max_position_embeddings=512)
    mx.random.seed(1)
    model = Model(config)
    model.reset(seed=3)
    model.update({"lm_head": {"weight": model.lm_head.weight * 40}})
    mx.eval(model.parameters())
    return Loaded(model, ByteTokenizer(), config, Path("tiny"), 12345)


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
        seen = self._extend(tokens, cache).astype(mx.int64)
        ends = mx.arange(seen.size - tokens.shape[1] + 1, seen.size + 1)  # of what each token sees
        if self._script is not None:
            start = self._start = ends[0].item() if self._start is None else self._start
            choices = mx.array(self._script)[mx.minimum(ends - start, len(self._script) - 1)]
        else:
            totals = mx.cumsum(mx.arange(1, seen.size + 1) * seen)[ends - 1]
            choices = 17 + (totals * 31 + ends) % 256
        chosen = mx.arange(VOCABULARY) == choices[:, None]
        return mx.where(chosen, 5.0, -500.0 if self._script else 0.0)[None]


@pytest.fixture
def make_engine():
    """make_engine(model, config=..., **engine options) -> Engine, closed after the test."""
    engines = []

    def make(model=None, config=None, tokenizer=None, **options):
        if not isinstance(model, Model):  # a scripted one knows nothing of batches
            options.setdefault("streams", 1)
        loaded = Loaded(
            model or ScriptedModel(),
            tokenizer or ByteTokenizer(),
            config or tiny_config(),
            Path("models/scripted"),
            bytes=0,
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

"""Models wide enough to be shared out, and a group of ranks that are threads of one process."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Barrier, Semaphore
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from k2mlx.config import ModelConfig, Quantization, QuantSpec, RopeScaling
from k2mlx.generate import thread
from k2mlx.model import Model
from k2mlx.weights.load import quantize_weights
from tests.models import TINY, random_weights, stack_experts

WIDE = replace(
    TINY,
    vocab_size=128,
    hidden_size=128,
    intermediate_size=256,
    moe_intermediate_size=128,
    num_attention_heads=4,
    n_routed_experts=8,
    num_experts_per_tok=3,
    q_lora_rank=64,
    kv_lora_rank=64,
    qk_nope_head_dim=16,
    v_head_dim=32,
    rope_scaling=RopeScaling(32, 16, 1, 1, 1.0, 1.0),
    quantization=Quantization(
        QuantSpec(4, 32, "symmetric"), QuantSpec(8, 32), QuantSpec(4, 32), QuantSpec(4, 32)
    ),
    checkpoint_format="k2mlx",
)


def wide_model(config: ModelConfig, seed: int) -> Model:
    """A whole model, quantised as its config says, what is not codes in float32."""
    weights = {name: mx.array(value) for name, value in random_weights(config, seed).items()}
    model = Model(config)
    stored = quantize_weights(stack_experts(weights, config), config)
    model.load_weights(list(stored.items()), strict=True)
    model.update(
        tree_map(lambda v: v if v.dtype == mx.uint32 else v.astype(mx.float32), model.parameters())
    )
    mx.eval(model.parameters())
    return model


def answers(model: Model, seed: int) -> list[np.ndarray]:
    """Logits of all that an engine asks of a model: a prompt at once, and in chunks (the last one
    short), one shorter than a chunk, decode, and decode of both together."""
    rng = np.random.default_rng(seed)
    long, short = (rng.integers(0, model.config.vocab_size, (1, n)) for n in (45, 5))
    steps = rng.integers(0, model.config.vocab_size, (2, 3, 1))
    out, batch = [model(mx.array(long))], model.make_batch_cache()
    for prompt, tokens in zip((long, short), steps, strict=True):
        cache = model.make_cache()
        for start in range(0, prompt.shape[1], 16):
            out.append(model(mx.array(prompt[:, start : start + 16]), cache))
            mx.eval(out)
        batch.admit(cache)
        out += [model(mx.array(token[None]), cache) for token in tokens]
        mx.eval(out)
    for i in range(3):
        out.append(model(mx.array(steps[:, i]), batch))
        mx.eval(out)
    return [np.array(a) for a in out]


def worst(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest logit of its own array."""
    pairs = zip(got, wanted, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def bytes_of(model: Model) -> int:
    return sum(value.nbytes for value in model.named_parameters().values())


class ThreadGroup:
    """One rank's place in a group of threads, as mx.distributed.Group."""

    def __init__(self, rank: int, barrier: Barrier, table: list[Any]):
        self._rank, self._barrier, self._table = rank, barrier, table

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return len(self._table)

    def exchange(self, x: mx.array) -> list[mx.array]:
        mx.eval(x)
        self._table[self._rank] = x
        self._barrier.wait(60)
        everyones = list(self._table)
        self._barrier.wait(60)
        return everyones

    def abort(self) -> None:
        self._barrier.abort()


def _sum(x: mx.array, group: ThreadGroup) -> mx.array:
    total, *others = group.exchange(x)
    for other in others:
        total = total + other
    return total


def _gather(x: mx.array, group: ThreadGroup) -> mx.array:
    return mx.concatenate(group.exchange(x))


@contextmanager
def thread_collectives():
    """mx.distributed's sums and gathers between threads instead of processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.distributed, "all_sum", _sum)
        patch.setattr(mx.distributed, "all_gather", _gather)
        yield


def on_ranks(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What `work` returns for each rank of a group, all at once (see k2mlx.generate.thread for
    why they never end)."""
    barrier, table = Barrier(size), [None] * size
    results: list[Any] = [None] * size
    errors: list[BaseException] = []
    ended = Semaphore(0)

    def run(rank: int) -> None:
        group = ThreadGroup(rank, barrier, table)
        try:
            results[rank] = work(group)
        except BaseException as error:
            errors.append(error)
            group.abort()
        finally:
            ended.release()

    with thread_collectives():
        for rank in range(size):
            thread.run(partial(run, rank))
        for _ in range(size):
            ended.acquire()
    if errors:
        raise errors[0]
    return results

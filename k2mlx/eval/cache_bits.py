"""`k2mlx eval cache`: what the latent cache costs in 8 bits.

Over the tokens of a text, read through the cache in windows: the KL in nats a token from the
16-bit cache to the other, as `k2mlx eval precision` defines it. And needles: a made-up number is
stated somewhere in the text and asked for at its end; both caches are asked the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from k2mlx.errors import RequestError
from k2mlx.eval.precision import distance, log_probabilities
from k2mlx.load import Loaded

NAMES = "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Karen Louis".split()
FORMS = (16, 8)
ANSWER_ROOM = 32


@dataclass(frozen=True)
class CacheCost:
    """bytes: a token, all layers. kl, largest, flips: as precision.Cost, from the 16-bit cache.
    found: needles whose every token is the most probable one; nats: a needle's own, its mean."""

    bits: int
    bytes: float
    kl: float
    largest: float
    flips: float
    needles: int
    found: int
    nats: float


def measure(
    loaded: Loaded, text: str, max_tokens: int, needles: int, length: int, seed: int = 0
) -> list[CacheCost]:
    """A row for each form. length: tokens of a context with a needle in it.

    Raises: RequestError for a text too short for such a context.
    """
    model, tokens = loaded.model, loaded.tokenizer.encode(text)
    asked = _needles(loaded, tokens, needles, length, np.random.default_rng(seed))
    wanted = list(log_probabilities(model, tokens[:max_tokens], 16))
    costs = []
    for bits in FORMS:
        got = log_probabilities(model, tokens[:max_tokens], bits)
        cost = distance("cache", str(bits), wanted, got)
        cache = model.make_cache(bits)
        found, nats = 0, 0.0
        for context, answer in asked:
            cache = model.make_cache(bits)
            right, missed = _ask(loaded, cache, context, answer)
            found, nats = found + right, nats + missed / len(asked)
        size = sum(layer.nbytes for layer in cache) / (cache[0].nbytes // _row_bytes(cache[0]))
        costs.append(
            CacheCost(bits, size, cost.kl, cost.largest, cost.flips, len(asked), found, nats)
        )
    return costs


def _row_bytes(layer) -> int:
    return sum(part[:, :1].nbytes for part in layer.export(0, 1).values())


def _needles(
    loaded: Loaded, tokens: list[int], count: int, length: int, random: np.random.Generator
) -> list[tuple[list[int], list[int]]]:
    """Contexts of about `length` tokens that end with the question, and what answers it."""
    encode = loaded.tokenizer.encode
    room = length - ANSWER_ROOM * 2
    if len(tokens) < room or room < 1:
        raise RequestError(
            f"--length: got {length} for a text of {len(tokens)} tokens, wanted more than "
            f"{ANSWER_ROOM * 2} and a text as long; give a longer text or a shorter length"
        )
    asked = []
    for _ in range(count):
        name, number = random.choice(NAMES), str(random.integers(1000, 10000))
        begin = int(random.integers(len(tokens) - room + 1))
        at = begin + int(random.integers(room))
        question = f"The secret number of {name} is"
        both, alone = encode(f"{question} {number}"), encode(question)
        if both[: len(alone)] != alone:
            raise RequestError("the tokenizer joins question and answer; no needle can be asked")
        statement = encode(f"\n{question} {number}.\n")
        hay = tokens[begin:at] + statement + tokens[at : begin + room] + encode("\n")
        asked.append((hay + alone, both[len(alone) :]))
    return asked


def _ask(loaded: Loaded, cache: list, context: list[int], answer: list[int]) -> tuple[bool, float]:
    """Whether the answer's tokens are the most probable, and its nats."""
    loaded.model.hidden(mx.array([context[:-1]]), cache)
    mx.eval([layer.state for layer in cache])
    logits = loaded.model(mx.array([[context[-1], *answer[:-1]]]), cache)[0].astype(mx.float32)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    right = bool((logs.argmax(-1) == answer).all())
    return right, float(-logs[np.arange(len(answer)), answer].sum())


def table(costs: list[CacheCost]) -> str:
    """For a terminal."""
    head = f"{'bits':>4}{'bytes/token':>13}{'KL nats/token':>15}{'largest':>10}{'flips':>8}"
    rows = [f"{head}{'needles found':>15}{'nats each':>11}"]
    for c in costs:
        row = f"{c.bits:>4}{c.bytes:>13,.0f}{c.kl:>15.2e}{c.largest:>10.1e}{c.flips:>8.2%}"
        found = f"{c.found} of {c.needles}"
        rows.append(f"{row}{found:>15}{c.nats:>11.4f}")
    return "\n".join(rows)

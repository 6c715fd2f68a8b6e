"""`k2mlx eval cache`: what the latent cache costs in 8 bits.

Over the tokens of a text, read through the cache in windows: the KL in nats a token from the cache
in the model's own type to another, as `k2mlx eval precision` defines it. And needles: a made-up
number is stated somewhere in the text and asked for at its end; every cache is asked the same. Rows
rounded to bfloat16, the type that K2 runs in, say how much is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from k2mlx.cache import STEP, LatentCache, Rows
from k2mlx.errors import RequestError
from k2mlx.eval.precision import distance, log_probabilities
from k2mlx.load import Loaded

NAMES = "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Karen Louis".split()
FORMS = ("16", "bf16", "8")
ANSWER_ROOM = 32


class _RoundedCache(LatentCache):
    """Rows in the model's type, rounded to bfloat16."""

    def append(self, rows: mx.array) -> Rows:
        return super().append(rows.astype(mx.bfloat16).astype(rows.dtype))


@dataclass(frozen=True)
class CacheCost:
    """bytes: allocated for a token, all layers. kl, largest, flips: as precision.Cost, from the
    cache in the model's type. found: needles whose every token is the most probable one; nats: a
    needle's own, its mean."""

    form: str
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
    tokens = tokens[:max_tokens]

    def new(form: str) -> list[LatentCache]:
        if form == "bf16":
            return [_RoundedCache() for _ in model.layers]
        return model.make_cache(int(form))

    wanted = list(log_probabilities(model, tokens, lambda: new("16")))
    costs = []
    for form in FORMS:
        got = log_probabilities(model, tokens, partial(new, form))
        cost = distance("cache", form, wanted, got)
        answers = [_ask(loaded, new(form), context, answer) for context, answer in asked]
        found, nats = (sum(column) for column in zip(*answers, strict=True))
        full = new(form)
        mx.eval(model.hidden(mx.array([tokens[:STEP]]), full))
        size = sum(layer.nbytes for layer in full) / STEP
        costs.append(
            CacheCost(
                form, size, cost.kl, cost.largest, cost.flips, len(asked), found, nats / len(asked)
            )
        )
    return costs


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
    head = f"{'form':>4}{'bytes/token':>13}{'KL nats/token':>15}{'largest':>10}{'flips':>8}"
    rows = [f"{head}{'needles found':>15}{'nats each':>11}"]
    for c in costs:
        row = f"{c.form:>4}{c.bytes:>13,.0f}{c.kl:>15.2e}{c.largest:>10.1e}{c.flips:>8.2%}"
        found = f"{c.found} of {c.needles}"
        rows.append(f"{row}{found:>15}{c.nats:>11.4f}")
    return "\n".join(rows)

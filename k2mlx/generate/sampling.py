"""Choosing the next token: pure functions on logits, and the settings that drive them.

Equal to mlx-lm's sampler, operation for operation: the filters work on the log-probabilities at
temperature 1, in the order top-p, min-p, top-k; the temperature is applied last, to what is left.
(Other engines apply the temperature first, so the same top-p keeps fewer tokens there.)

Randomness is an explicit key, so a request's tokens depend on its seed alone, never on what else
the process has drawn.

Legend: B batch (any leading axes), V vocabulary.
"""

import math
from dataclasses import dataclass, fields

import mlx.core as mx

from k2mlx.errors import RequestError

_NEVER = -float("inf")
_KEYS_AT_ONCE = 64


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, and how many.

    temperature: 0 takes the likeliest token. top_p in (0, 1], 1 keeps all. top_k: 0 keeps all.
    min_p in [0, 1]: drops tokens less likely than min_p times the likeliest; 0 keeps all.
    seed: None draws one. max_tokens: at most this many tokens in the answer.

    Raises: RequestError for a value outside its range.
    """

    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seed" and value is None:
                continue
            kinds = (int,) if field.name in ("top_k", "seed", "max_tokens") else (int, float)
            good = isinstance(value, kinds) and not isinstance(value, bool)
            _check(field.name, value, good, "a whole number" if kinds == (int,) else "a number")
        finite = 0 <= self.temperature < math.inf
        _check("temperature", self.temperature, finite, "0 or more and finite")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps all)")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more (0 keeps all)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1 (0 keeps all)")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")
        if self.seed is not None:
            _check("seed", self.seed, 0 <= self.seed < 2**64, "from 0 to 2^64 - 1")


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:  # comparisons with NaN are false, so NaN is never good
        default = getattr(Sampling, name)
        usual = "a random one" if default is None else default
        raise RequestError(f"{name}: got {value!r}, wanted {wanted}; leave it out for {usual}")


def log_probabilities(logits_BV: mx.array) -> mx.array:
    """Log-softmax in float32, whatever the dtype of the logits."""
    logits_BV = logits_BV.astype(mx.float32)
    return logits_BV - mx.logsumexp(logits_BV, axis=-1, keepdims=True)


def apply_top_p(logprobs_BV: mx.array, top_p: float) -> mx.array:
    """Keep the likeliest tokens until they hold top_p of the probability; the rest become -inf.

    A token stays if those strictly likelier hold less than top_p, so the likeliest always does,
    and tokens as likely as the last one kept stay too.
    """
    if top_p >= 1:
        return logprobs_BV
    sorted_BV = mx.sort(logprobs_BV, axis=-1)
    probs_BV = mx.exp(sorted_BV)
    above_BV = mx.cumsum(probs_BV, axis=-1, reverse=True, inclusive=False)
    total_B1 = above_BV[..., :1] + probs_BV[..., :1]
    dropped_B1 = (above_BV >= top_p * total_B1).sum(axis=-1, keepdims=True)
    threshold_B1 = mx.take_along_axis(sorted_BV, dropped_B1, axis=-1)
    return mx.where(logprobs_BV < threshold_B1, _NEVER, logprobs_BV)


def apply_min_p(logprobs_BV: mx.array, min_p: float) -> mx.array:
    """Keep tokens at least min_p times as likely as the likeliest; the rest become -inf."""
    if min_p <= 0:
        return logprobs_BV
    threshold_B1 = mx.max(logprobs_BV, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logprobs_BV < threshold_B1, _NEVER, logprobs_BV)


def apply_top_k(logprobs_BV: mx.array, top_k: int) -> mx.array:
    """Keep exactly the top_k likeliest tokens; the rest become -inf. 0, or V or more, keeps all."""
    if not 0 < top_k < logprobs_BV.shape[-1]:
        return logprobs_BV
    rest_BV = mx.argpartition(-logprobs_BV, kth=top_k - 1, axis=-1)[..., top_k:]
    never = mx.array(_NEVER, logprobs_BV.dtype)
    return mx.put_along_axis(logprobs_BV, rest_BV, never, axis=-1)


def sample(logits_BV: mx.array, key: mx.array | None, sampling: Sampling) -> mx.array:
    """Next tokens [B] from logits [B, V]; deterministic in (logits, key, sampling).

    The key is not used at temperature 0.
    """
    if sampling.temperature == 0:
        return mx.argmax(logits_BV, axis=-1)
    return mx.random.categorical(_scores(logits_BV, sampling), key=key)


def sample_each(logits_BV: mx.array, keys_B2: mx.array | None, sampling: Sampling) -> mx.array:
    """Next tokens [B] from logits [B, V], row i by key i: what `sample` gives for each row alone.

    The keys are not used at temperature 0.
    """
    if sampling.temperature == 0:
        return mx.argmax(logits_BV, axis=-1)
    assert keys_B2 is not None
    scores_BV = _scores(logits_BV, sampling)
    rows = zip(mx.split(scores_BV, len(scores_BV)), keys_B2, strict=True)
    return mx.concatenate([mx.random.categorical(row, key=key) for row, key in rows])


def _scores(logits_BV: mx.array, sampling: Sampling) -> mx.array:
    logprobs_BV = log_probabilities(logits_BV)
    logprobs_BV = apply_top_p(logprobs_BV, sampling.top_p)
    logprobs_BV = apply_min_p(logprobs_BV, sampling.min_p)
    logprobs_BV = apply_top_k(logprobs_BV, sampling.top_k)
    return logprobs_BV * (1.0 / sampling.temperature)


class Keys:
    """The random keys of a request's tokens; they depend on the seed and the token's place."""

    def __init__(self, seed: int) -> None:
        self._next = mx.random.key(seed)
        self._batches: list[mx.array] = []

    def at(self, start: int, count: int = 1) -> mx.array:
        """The keys [count, 2] of the tokens start .. start + count of the answer."""
        while len(self._batches) * _KEYS_AT_ONCE < start + count:
            batch = mx.random.split(self._next, _KEYS_AT_ONCE + 1)
            self._batches.append(batch[:_KEYS_AT_ONCE])
            self._next = batch[_KEYS_AT_ONCE]
        first, last = start // _KEYS_AT_ONCE, (start + count - 1) // _KEYS_AT_ONCE
        batches = self._batches[first : last + 1]
        rows = batches[0] if len(batches) == 1 else mx.concatenate(batches)
        return rows[start - first * _KEYS_AT_ONCE :][:count]

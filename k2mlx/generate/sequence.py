"""One request's work on the device: its prompt in chunks, then a token a step.

Everything here runs on the engine's thread.
"""

import secrets
from collections.abc import Iterator

import mlx.core as mx

from k2mlx.cache import LatentCache
from k2mlx.generate.sampling import Sampling, sample
from k2mlx.model import Model

_KEYS_AT_ONCE = 64


def keys(seed: int) -> Iterator[mx.array]:
    """The random keys of a request's tokens, one after another; they depend on the seed alone."""
    key = mx.random.key(seed)
    while True:
        batch = mx.random.split(key, _KEYS_AT_ONCE + 1)
        key = batch[_KEYS_AT_ONCE]
        for i in range(_KEYS_AT_ONCE):
            yield batch[i]


class Sequence:
    """The state of one request between steps.

    `tokens` are the prompt and every token sampled since; the cache holds a prefix of them.
    """

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        sampling: Sampling,
        *,
        vocabulary: int,
        limit: int,
        chunk: int,
        cache: list[LatentCache] | None = None,
    ) -> None:
        self.tokens = list(prompt)
        self.cache = model.make_cache() if cache is None else cache
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._model, self._sampling = model, sampling
        self._prompt = len(prompt)
        self._vocabulary, self._limit, self._chunk = vocabulary, limit, chunk
        self._keys = keys(self.seed) if sampling.temperature > 0 else None
        self._ahead: mx.array | None = None  # the token being computed, [1]

    @property
    def filled(self) -> int:
        """How many tokens the cache holds."""
        return self.cache[0].offset

    def advance(self) -> int | None:
        """One step: a chunk of the prompt (None), or the next token of the answer.

        The last token of the prompt is left to the first decode step, so the head never runs over
        a prompt, and of the last layer only the cache is computed there.
        """
        left = self._prompt - 1 - self.filled
        if left > 0:
            self._prefill(min(left, self._chunk))
            return None
        current = self._ahead
        if current is None:
            current = self._launch(mx.array(self.tokens[-1:]))
        # The device gets its next step before the host waits for this one's token. When that token
        # turns out to end the answer, the step was for nothing: cheaper than idling every time.
        produced = len(self.tokens) - self._prompt + 1
        self._ahead = self._launch(current) if produced < self._limit else None
        token = current.item()
        assert isinstance(token, int)
        self.tokens.append(token)
        return token

    def _prefill(self, count: int) -> None:
        start = self.filled
        chunk = mx.array([self.tokens[start : start + count]])
        self._model.hidden(chunk, self.cache)
        mx.eval([layer.state for layer in self.cache])

    def _launch(self, token: mx.array) -> mx.array:
        """Start computing the token after `token` [1], without waiting for it."""
        logits_BLV = self._model(token[None], self.cache)
        key = next(self._keys) if self._keys else None
        following = sample(logits_BLV[:, -1, : self._vocabulary], key, self._sampling)
        mx.async_eval(following)
        return following

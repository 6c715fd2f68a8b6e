"""One request's work on the device: its prompt in chunks, then tokens step by step.

Everything here runs on the engine's thread.
"""

import secrets

import mlx.core as mx

from k2mlx.cache import LatentCache
from k2mlx.generate.sampling import Keys, Sampling, sample_each
from k2mlx.generate.speculate import Drafts
from k2mlx.runner import Runner


class Sequence:
    """The state of one request between steps.

    `tokens` are the prompt and every token given out since. The cache holds a prefix of them:
    once the prompt is computed, all but the last, and the last too while its next token is being
    computed ahead. Guesses (`drafts`) are in neither between steps.
    """

    def __init__(
        self,
        runner: Runner,
        prompt: list[int],
        sampling: Sampling,
        *,
        limit: int,
        cache: list[LatentCache] | None = None,
        drafts: Drafts | None = None,
    ) -> None:
        self.tokens = list(prompt)
        self.cache = runner.make_cache() if cache is None else cache
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self.drafts = drafts
        self._runner, self._sampling = runner, sampling
        self._prompt = len(prompt)
        self._limit = limit
        self._keys = Keys(self.seed)
        self._ahead: mx.array | None = None  # the token being computed, [1]
        self._chained = False  # it was launched before the token ahead of it was known
        self._arrived: float | None = None  # when the last token was

    @property
    def filled(self) -> int:
        """How many tokens the cache holds; none while a batch has it."""
        return self.cache[0].offset if self.cache else 0

    @property
    def room(self) -> int:
        """How many tokens the answer may still get."""
        return self._limit - (len(self.tokens) - self._prompt)

    @property
    def prompt_left(self) -> int:
        """How many tokens of the prompt are to be computed before the first decode step, to which
        the last is left: so the head never runs over a prompt, and of the last layer only the cache
        is computed there."""
        return max(self._prompt - 1 - self.filled, 0)

    @property
    def starts_empty(self) -> bool:
        """Whether the next step is the first thing that is computed."""
        return bool(self.cache) and self.filled == 0

    @property
    def greedy(self) -> bool:
        return self._sampling.temperature == 0

    def prefill(self, count: int, goes_on: bool = False) -> None:
        """Compute the next `count` tokens of the prompt, or what is left. goes_on: nothing is
        computed for anybody else before the tokens after these."""
        start, left = self.filled, self.prompt_left
        following = min(count, max(left - count, 0)) if goes_on else 0
        chunk = self.tokens[start : start + min(count, left)]
        pending = self._runner.fill(chunk, self.cache, following)
        self._learn()
        self._runner.wait(pending)

    def advance(self) -> list[int]:
        """One step: the next tokens of the answer. More than one where guesses were right; never
        more than the limit leaves room for."""
        assert not self.prompt_left
        assert self.room > 0
        guesses: list[int] = []
        if self._ahead is None:
            guesses = self._guesses(self.room - 1)
            if not guesses:
                self._restart()
        new = [self._plain()] if self._ahead is not None else self._verify(guesses)
        if self._ahead is None and self.room > 0 and not self._guesses(self.room - 1):
            self._restart()
        return new

    def interrupted(self) -> None:
        """The device did something else since the last step: its time says nothing."""
        self._arrived = None

    def rewind(self, count: int) -> None:
        """End here, without the last `count` tokens given out; the cache holds none of them then.

        Not to be advanced any more.
        """
        given = len(self.tokens) - self._prompt
        assert 0 <= count <= given, (count, given)
        if count:
            del self.tokens[-count:]
            self._ahead = None
        self._trim(max(self.filled - len(self.tokens), 0))

    def choose(self, logits_1V: mx.array, filled: int) -> mx.array:
        """The token [1] after the one that was put into the cache after `filled` others."""
        return self._sample(logits_1V, filled)

    def hand_over(self) -> tuple[mx.array, bool]:
        """For a batch, which has the rows now: the token [1] of its next step, and whether the host
        still has to see it."""
        ahead, self._ahead, self.cache = self._ahead, None, []
        if ahead is None:
            return mx.array(self.tokens[-1:], mx.int32), False
        return ahead, True

    def take_back(self, cache: list[LatentCache], ahead: mx.array | None) -> None:
        """Go on alone, with the rows that a batch had and the token that it was computing."""
        self.cache, self._ahead, self._chained, self._arrived = cache, ahead, True, None

    def _plain(self) -> int:
        """The token that is being computed. The device gets its next step before the host waits for
        this one, unless guesses are likely to pay: they need the token that they follow. When the
        token turns out to end the answer, the step was for nothing: cheaper than idling every time.
        """
        current, chained = self._ahead, self._chained
        assert current is not None
        self._learn()
        waits = bool(self._guesses(self.room - 2))
        self._ahead = self._choose(current) if self.room > 1 and not waits else None
        self._chained = True
        (token,) = self._runner.read(current)
        self.tokens.append(token)
        seconds = self._elapsed()
        if self.drafts:
            self.drafts.plain(token, seconds, waited=not chained)
        return token

    def _verify(self, guesses: list[int]) -> list[int]:
        """The tokens that the model chooses after the last one and after each guess, as far as the
        guesses are what it chooses: the same as one by one, for each has its own key."""
        assert self.drafts is not None
        chosen = self._runner.read(self._choose(mx.array([self.tokens[-1], *guesses])))
        right = 0
        while right < len(guesses) and guesses[right] == chosen[right]:
            right += 1
        self._trim(len(guesses) - right)
        new = chosen[: right + 1]
        self.tokens += new
        self.drafts.verified(len(guesses), right, self._elapsed())
        return new

    def _guesses(self, most: int) -> list[int]:
        """What to check in the next step, at most so many tokens; often nothing."""
        if self.drafts is None or most < 1:
            return []
        self._learn()
        return self.drafts.propose(most)

    def _learn(self) -> None:
        if self.drafts:
            self.drafts.learn(self.tokens)

    def _restart(self) -> None:
        """Compute the next token from the last, which the host has."""
        self._ahead, self._chained = self._choose(mx.array(self.tokens[-1:])), False

    def _choose(self, tokens: mx.array) -> mx.array:
        """Start computing the token [L] after each of `tokens` [L], which go into the cache."""
        filled = self.filled
        return self._runner.choose(
            tokens, self.cache, lambda logits_BLV: self._sample(logits_BLV[0], filled)
        )

    def _sample(self, logits_LV: mx.array, filled: int) -> mx.array:
        first = filled + 1 - self._prompt  # the answer's token that is chosen first
        keys = None if self.greedy else self._keys.at(first, len(logits_LV))
        return sample_each(logits_LV, keys, self._sampling)

    def _trim(self, count: int) -> None:
        for layer in self.cache:
            layer.trim(count)

    def _elapsed(self) -> float | None:
        """Seconds since the last tokens came; None for the first."""
        last, self._arrived = self._arrived, self._runner.clock()
        return None if last is None else self._arrived - last

"""The last conversation's cache, kept so that its next turn computes only what is new."""

from collections.abc import Sequence
from itertools import takewhile

from k2mlx.cache import LatentCache


class PrefixSlot:
    """One latent cache and the tokens that are in it. Used on the engine's thread only."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._cache: list[LatentCache] | None = None

    def take(self, prompt: Sequence[int]) -> tuple[list[LatentCache] | None, int]:
        """A cache trimmed to what it shares with the prompt, and how many tokens that is.

        The slot is empty afterwards. At least the prompt's last token is left to compute, because
        the first token of the answer is sampled from its logits.
        """
        tokens, cache = self._tokens, self._cache
        self.clear()
        pairs = zip(tokens, prompt[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if cache is None or shared == 0:
            return None, 0
        for layer in cache:
            layer.trim(len(tokens) - shared)
        return cache, shared

    def keep(self, tokens: Sequence[int], cache: list[LatentCache]) -> None:
        """Remember a cache that holds exactly these tokens."""
        assert all(layer.offset == len(tokens) for layer in cache)
        self._tokens, self._cache = list(tokens), cache

    def clear(self) -> None:
        """Forget, and free the memory."""
        self._tokens, self._cache = [], None

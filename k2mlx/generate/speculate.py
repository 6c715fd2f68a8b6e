"""Guessing the next tokens, so that one pass over the weights may yield several of them.

Agents copy a lot: file contents, identifiers, arguments of the call before. `NgramIndex` finds
where the last tokens occurred before and proposes what followed there (prompt lookup decoding,
Saxena 2023). The model checks all guesses in one step (`sequence.Sequence`), so a wrong guess costs
time and never a token. `Drafts` decides how many guesses are worth their time, from `Costs`, which
it learns: with a mixture of experts each guess reads experts of its own, so k guesses may cost
nearly as much as k tokens.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple, Protocol

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)  # drafts a step; few sizes, so that each is measured often
AT_ONCE = 2048  # tokens indexed in one go: about a millisecond and a half, behind the device's step

# What a draft adds to a step, in plain steps, as long as it is not measured: low enough to try.
_GUESSED_SLOPE = 0.5
_SAMPLES = 9  # of a size's time; their median ignores a hiccup
_FORGET = 256  # plain steps after which a size loses its oldest sample, to be tried again one day
_WORTH = 1.05  # expected tokens a plain step's time, below which speculation is off

# The account, in plain steps: what speculation may lose. It starts with a few steps to learn from,
# earns a share of every plain step, and gains count up to a bound.
_OPENING = 2.0
_SHARE = 0.015
_MOST = 16.0

_LENGTHS = (5, 8, 16)  # matches shorter than this, than that, ...: each class has its own chances
_PRIOR = (0.3, 0.5, 0.7, 0.85)
_PRIOR_WEIGHT = 4.0
_MEMORY = 40.0  # observations after which old ones count half or less


class Match(NamedTuple):
    """length: how many of the last tokens occurred before; tokens: what followed there."""

    length: int
    tokens: list[int]


class Proposer(Protocol):
    """Something that guesses how a text goes on."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in the next tokens of the text."""

    def propose(self, most: int) -> Match | None:
        """At most this many guesses, at least one; None for no idea."""


class NgramIndex:
    """Where each n-gram of a growing text last ended.

    Adding a token takes constant time and, for each order, one entry of memory. The match found is
    the latest one of the longest order that matches; its length is counted up to `longest`.
    """

    def __init__(self, orders: Sequence[int] = (3, 8), longest: int = 32) -> None:
        if not orders or min(orders) < 1 or longest < max(orders):
            raise ValueError(f"orders: got {orders!r}, wanted some from 1 to {longest}")
        self._tokens: list[int] = []
        # Hashes instead of the n-grams themselves: a quarter of the memory. `propose` compares.
        self._ends: dict[int, dict[int, int]] = {n: {} for n in sorted(orders, reverse=True)}
        self._longest = longest

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in the next tokens."""
        known, start = self._tokens, len(self._tokens)
        known.extend(tokens)
        # An n-gram counts once a token follows it, so the text's end never matches itself.
        for n, ends in self._ends.items():
            for end in range(max(start, n), len(known)):
                ends[hash(tuple(known[end - n : end]))] = end

    def propose(self, most: int) -> Match | None:
        """What followed the last tokens where they occurred before, at most `most` tokens.

        A match that runs into the end of the text is a repetition, and is gone on with.
        """
        known, size = self._tokens, len(self._tokens)
        for n, ends in self._ends.items():
            if size < n or most < 1:
                continue
            end = ends.get(hash(tuple(known[size - n :])))
            if end is None:
                continue
            length = 0
            while length < min(end, self._longest) and known[end - 1 - length] == known[~length]:
                length += 1
            if length >= n:  # else two n-grams share a hash
                period = size - end
                return Match(length, [known[end + i % period] for i in range(most)])
        return None


class Costs:
    """What steps cost on this machine with this model, and what speculation may still lose.

    Shared by the requests of an engine. The unit is the plain step, whose time follows the depth
    of the conversation; times are given in seconds by whoever has a clock.
    """

    def __init__(self) -> None:
        self.balance = _OPENING  # plain steps
        self._plain: deque[float] = deque(maxlen=_SAMPLES)
        self._ratios: dict[int, deque[float]] = {}
        self._since = 0

    def plain(self, seconds: float) -> None:
        """A plain step took this long, with the next one already under way behind it."""
        if seconds > 0:  # a coarse clock may not have moved
            self._plain.append(seconds)
        self.balance = min(self.balance + _SHARE, max(self.balance, _OPENING))
        self._since += 1
        if self._since % _FORGET == 0:
            for ratios in self._ratios.values():
                if ratios:
                    ratios.popleft()

    def waited(self, seconds: float) -> None:
        """A plain step took this long because the host waited for a token to guess from."""
        if self._plain:
            self._book(1 - min(seconds / median(self._plain), 2.0))

    def verified(self, drafts: int, tokens: int, seconds: float) -> None:
        """A step with so many drafts yielded so many tokens."""
        if not self._plain:
            return
        # More than a step a token is no cost of drafts: another program ran, a kernel was compiled.
        ratio = min(seconds / median(self._plain), drafts + 2.0)
        self._ratios.setdefault(drafts, deque(maxlen=_SAMPLES)).append(ratio)
        self._book(tokens - ratio)

    def ratio(self, drafts: int) -> float:
        """The time of a step with so many drafts, in plain steps; between sizes that were measured
        a straight line. Beyond them drafts are supposed to get no dearer than guessed: chosen
        experts repeat, and kernels for many rows are better than those for few."""
        known = [(0, 1.0), *sorted((k, median(r)) for k, r in self._ratios.items() if r)]
        for (low, at_low), (high, at_high) in pairwise(known):
            if drafts <= high:
                return at_low + (at_high - at_low) * (drafts - low) / (high - low)
        last, at_last = known[-1]
        slope = min((at_last - 1) / last, _GUESSED_SLOPE) if last else _GUESSED_SLOPE
        return at_last + slope * (drafts - last)

    def best(self, chance: float, most: int) -> int:
        """How many drafts yield the most tokens a second, if each that is tested is right with this
        chance; 0 if a plain step does, times are not known yet, or the account does not cover the
        loss that a wrong first draft makes likely."""
        if not self._plain or self.balance < 0:
            return 0
        best, best_rate = 0, _WORTH
        for drafts in SIZES:
            ratio = self.ratio(drafts)
            if drafts > most or self.balance < (1 - chance) * (ratio - 1):
                continue
            rate = sum(chance**i for i in range(drafts + 1)) / ratio
            if rate > best_rate:
                best, best_rate = drafts, rate
        return best

    def _book(self, steps: float) -> None:
        self.balance = min(self.balance + steps, _MOST)


class Drafts:
    """The guesses for one request: proposes, and learns from what the model says.

    Chances are learned without cost: what the index would have proposed is compared with each token
    that a plain step brings. So a text that begins to copy is noticed while speculation is off.
    """

    def __init__(self, costs: Costs, proposer: Proposer | None = None) -> None:
        self.drafted = 0  # tokens proposed and checked
        self.accepted = 0  # of these, right
        self._costs = costs
        self._proposer = NgramIndex() if proposer is None else proposer
        self._known = 0  # tokens that the proposer has
        self._match: Match | None = None  # for the end of the known tokens
        self._right = [p * _PRIOR_WEIGHT for p in _PRIOR]
        self._seen = [_PRIOR_WEIGHT] * len(_PRIOR)

    def learn(self, tokens: list[int]) -> None:
        """Take in what is new in the request's tokens, at most AT_ONCE of it: long prompts are
        indexed behind several of the device's steps."""
        new = tokens[self._known : self._known + AT_ONCE]
        if not new:
            return
        self._proposer.extend(new)
        self._known += len(new)
        caught_up = self._known == len(tokens)
        self._match = self._proposer.propose(SIZES[-1]) if caught_up else None

    def propose(self, room: int) -> list[int]:
        """The tokens to check now, after all that was learned; at most `room`, often none."""
        match = self._match
        if match is None:
            return []
        most = min(room, len(match.tokens))
        return match.tokens[: self._costs.best(self.chance(match.length), most)]

    def plain(self, token: int, seconds: float | None, *, waited: bool) -> None:
        """A plain step brought this token, to be learned next. seconds: None if not known."""
        if self._match is not None:
            self._observe(self._match.length, int(token == self._match.tokens[0]), 1)
        if seconds is not None:
            (self._costs.waited if waited else self._costs.plain)(seconds)

    def verified(self, drafts: int, accepted: int, seconds: float | None) -> None:
        """A step checked so many drafts of the last proposal; the first so many were right."""
        assert self._match is not None
        self.drafted += drafts
        self.accepted += accepted
        self._observe(self._match.length, accepted, min(accepted + 1, drafts))
        if seconds is not None:
            self._costs.verified(drafts, accepted + 1, seconds)

    def chance(self, length: int) -> float:
        """That a draft after a match of this length is right, if those before it are."""
        kind = _kind(length)
        return self._right[kind] / self._seen[kind]

    def _observe(self, length: int, right: int, tested: int) -> None:
        kind = _kind(length)
        kept = min(1.0, _MEMORY / (self._seen[kind] + tested))
        self._right[kind] = self._right[kind] * kept + right
        self._seen[kind] = self._seen[kind] * kept + tested


def _kind(length: int) -> int:
    return sum(length >= bound for bound in _LENGTHS)

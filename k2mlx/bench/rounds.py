"""Who runs when, medians, and the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from statistics import median
from typing import Any

from k2mlx.bench.cases import Case, Contenders, Run
from k2mlx.bench.contest import Contest
from k2mlx.bench.measure import Measured, NotMeasuredError, measure

SHORT = 1.0  # seconds; shorter work is done twice, and the second time counts
Results = dict[str, list[Measured]]


def run(
    contest: Contest,
    cases: Iterable[Case],
    rounds: int,
    shared: dict[str, Any],
    on_round: Callable[[str, int, str], None] = lambda case, number, contender: None,
) -> Iterator[dict[str, Any]]:
    """The rows of each case as soon as it is done. shared: what every row says.

    on_round(case, number, contender): called before each; number 0 warms up and is not counted.
    """
    for case in cases:
        about = {"case": case.name} | shared | contest.about() | {"rounds": rounds}
        about |= {"what": case.about}
        try:
            with case.open(contest.widened(case.context)) as contenders:
                results = alternate(case.name, contenders, rounds, on_round)
        except NotMeasuredError as reason:
            yield about | {"skipped": str(reason)}
            continue
        if case.context > contest.own_context:
            about["beyond_context"] = contest.own_context
        yield from rows(case, results, about)


def alternate(
    case: str,
    contenders: Contenders,
    rounds: int,
    on_round: Callable[[str, int, str], None] = lambda case, number, contender: None,
) -> Results:
    """What each contender took in each round. They take turns, and every other round they do so
    the other way round.

    The turn before has left the allocator with the other one's buffers. So a contender whose work
    is short (as round 0 tells) does it twice, and the second time counts: it finds its own buffers,
    as in use.
    """
    results: Results = {name: [] for name in contenders}
    short: dict[str, bool] = {}
    for number in range(rounds + 1):
        for name in contenders if number % 2 else reversed(contenders):
            on_round(case, number, name)
            work = contenders[name]
            if short.get(name):
                _measure(work, f"{case} {number}, not counted")
            measured = _measure(work, f"{case} {number}")
            if number:
                results[name].append(measured)
            else:
                short[name] = measured.whole < SHORT
    return results


def _measure(work: Run, seed: str) -> Measured:
    return measure(lambda: work(Random(seed)))


def rows(case: Case, results: Results, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """For k2mlx, which comes first, beside each of the others: a row for the time, one for the
    peak of memory.

    Both are costs, so the ratio is the other's median by ours: above 1 k2mlx is better.
    """
    mine, *others = results
    for other in others:
        pair = {name: results[name] for name in (mine, other)}
        facts = {"note": case.facts[other]} if other in case.facts else {}
        seconds = {name: [m.seconds for m in found] for name, found in pair.items()}
        extra: dict[str, Any] = {}
        if case.tokens is not None:
            rates = {name: case.tokens / median(found) for name, found in seconds.items()}
            extra["tokens_per_second"] = rates
        if all(m.tokens for found in pair.values() for m in found):
            same = sum(a.tokens == b.tokens for a, b in zip(*pair.values(), strict=True))
            extra["rounds_with_equal_tokens"] = same
        if cached := max(m.cached for m in results[mine]):
            extra["cached_tokens"] = cached
        if any(m.steps for found in pair.values() for m in found):
            extra["seconds_by_step"] = {name: _by_step(found) for name, found in pair.items()}
        yield _row(about, "time", other, "s", seconds) | extra | facts
        peaks = {name: [float(m.peak) for m in found] for name, found in pair.items()}
        yield _row(about, "memory", other, "bytes beyond the weights", peaks) | facts


def _row(
    about: dict[str, Any], measure: str, against: str, unit: str, values: dict[str, list[float]]
) -> dict[str, Any]:
    mine, other = (median(found) for found in values.values())
    # Nothing allocated at all, as far as MLX tells: no ratio then, not an infinite one.
    ratio = round(other / mine, 4) if mine > 0 else None
    medians = {name: median(found) for name, found in values.items()}
    start = {"case": about["case"], "measure": measure, "against": against, "ratio": ratio}
    return start | {"unit": unit} | medians | {"all": values} | about


def _by_step(found: list[Measured]) -> list[float]:
    """The medians of each step over the rounds."""
    return [median(step) for step in zip(*(m.steps for m in found), strict=True)]

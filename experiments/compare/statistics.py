"""Statistics over seeds: intervals of means, paired tests, and times that not every run lived to see."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of all intervals."""

_SAME = 1e-9  # differences of accuracies below it are rounding


@dataclass(frozen=True)
class Mean:
    """A mean over runs.

    Attributes:
        count: runs it is over.
        value: ``None`` without runs.
        low: lower end of Student's interval; ``None`` with fewer than two runs.
        high: upper end.
    """

    count: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """Student's paired test of two configurations over the seeds that both finished.

    Attributes:
        count: pairs.
        difference: mean of the first minus the second.
        low: lower end of the difference's interval.
        high: upper end.
        p: chance of a difference this large if there is none; ``None`` with fewer than two pairs, or if all
            differences are the same, so that their spread is not known.
        p_holm: the same, corrected for the number of pairs of configurations tested.
    """

    count: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class Waiting:
    """Rounds until something happened, of runs of which some ended before it did.

    Attributes:
        count: runs.
        reached: runs in which it happened.
        median: the first round by which half of the runs have it (Kaplan-Meier); ``None`` if that is not seen.
        low: lower end of the median's interval (Brookmeyer and Crowley, on the log-log scale); ``None`` if not seen.
        high: upper end; ``None`` if not seen, so that it may be any later round, or never.
        rounds: where the curve steps, [steps].
        share: runs that have it by then, estimated, [steps].
    """

    count: int
    reached: int
    median: float | None
    low: float | None
    high: float | None
    rounds: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class Wait:
    """One run's: the round it happened in, or the last round in which it had not yet."""

    round: int
    reached: bool


def first_at(accuracies: Mapping[int, float], target: float, last: int) -> Wait:
    """The first evaluated round of a run at the target.

    Args:
        accuracies: by evaluated round, in order.
        target: at or above which is looked for.
        last: round of the run, in which one that never got there is censored.

    >>> first_at({0: 0.1, 5: 0.4, 10: 0.7}, 0.4, 10), first_at({0: 0.1}, 0.4, 10)
    (Wait(round=5, reached=True), Wait(round=10, reached=False))
    """
    for round, accuracy in accuracies.items():
        if accuracy >= target:
            return Wait(round, reached=True)
    return Wait(last, reached=False)


def mean(values: Sequence[float]) -> Mean:
    """The mean with Student's interval.

    >>> mean([1.0, 2.0, 3.0])
    Mean(count=3, value=2.0, low=-0.484..., high=4.484...)
    """
    if not values:
        return Mean(0, None, None, None)
    centre = float(np.mean(values))
    if len(values) < 2:
        return Mean(1, centre, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Mean(len(values), centre, centre - half, centre + half)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired:
    """Compare two configurations by the values of their runs, by seed; seeds that one of them lacks are left out."""
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    if len(seeds) < 2:
        return Paired(len(seeds), float(differences.mean()) if seeds else None, None, None, None)
    centre = float(differences.mean())
    if np.ptp(differences) < _SAME:  # without a spread Student's p would be 0, however few the pairs
        return Paired(len(seeds), centre, None, None, 1.0 if abs(centre) < _SAME else None)
    test = stats.ttest_rel([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    interval = test.confidence_interval(LEVEL)
    return Paired(len(seeds), centre, float(interval.low), float(interval.high), float(test.pvalue))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number (Holm 1979, Scandinavian Journal of Statistics 6); untested ones stay ``None``.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = largest
    return corrected


def waiting(waits: Sequence[Wait]) -> Waiting:
    """Kaplan and Meier's estimate (1958, Journal of the American Statistical Association 53) over runs."""
    reached = sum(one.reached for one in waits)
    if not waits:
        return Waiting(0, 0, None, None, None, (), ())
    sf = stats.ecdf(_censored(waits)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = sf.confidence_interval(LEVEL, method="log-log")
    # Where everything or nothing is over, the log-log scale ends (scipy warns of it): the lower limit is then the
    # estimate, and the upper one is not known.
    lower = np.where(np.isnan(interval.low.probabilities), sf.probabilities, interval.low.probabilities)
    upper = np.where(np.isnan(interval.high.probabilities), 1.0, interval.high.probabilities)
    return Waiting(
        count=len(waits),
        reached=reached,
        median=_first_half(sf.quantiles, sf.probabilities),
        low=_first_half(sf.quantiles, lower),
        high=_first_half(sf.quantiles, upper),
        rounds=tuple(float(one) for one in sf.quantiles),
        share=tuple(float(1 - one) for one in sf.probabilities),
    )


def log_rank(first: Sequence[Wait], second: Sequence[Wait]) -> float | None:
    """Chance of two curves this different if there is no difference; ``None`` if nothing happened in any run."""
    if not first or not second or not any(one.reached for one in (*first, *second)):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = float(stats.logrank(_censored(first), _censored(second)).pvalue)
    return None if math.isnan(chance) else chance


def pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of ``count`` things."""
    return list(itertools.combinations(range(count), 2))


def _censored(waits: Sequence[Wait]) -> stats.CensoredData:
    return stats.CensoredData(
        uncensored=[one.round for one in waits if one.reached], right=[one.round for one in waits if not one.reached]
    )


def _first_half(rounds: np.ndarray, surviving: np.ndarray) -> float | None:
    below = np.flatnonzero(surviving <= 0.5 + 1e-12)
    return float(rounds[below[0]]) if len(below) else None

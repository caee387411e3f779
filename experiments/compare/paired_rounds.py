"""Rounds that one configuration saves another, over runs of the same seeds of which some never got there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from experiments.compare.statistics import LEVEL, Wait
from fedsim import seeding

RESAMPLES = 10_000
"""Of the bootstrap."""
FEWEST = 5
"""Pairs for an interval: of fewer, resamples are too much alike."""
EXACT = 13
"""Pairs up to which all their signs, 2^13 at most, are gone through."""


@dataclass(frozen=True)
class Saved:
    """Rounds of the first configuration minus those of the second.

    Attributes:
        count: pairs.
        difference: mean over pairs; below 0 where the first is sooner. ``None`` without pairs.
        low: lower end of its interval, from pairs drawn again; ``None`` with fewer than ``FEWEST``.
        high: upper end.
        share: the difference, as a share of the second's mean rounds; ``None`` where those are 0.
        p: chance of ranks this one-sided if there is no difference (``signed_ranks``); ``None`` with fewer than two
            pairs.
        censored: runs of the first that never got there, and of the second.
    """

    count: int
    difference: float | None
    low: float | None
    high: float | None
    share: float | None
    p: float | None
    censored: tuple[int, int]


def saved(first: Mapping[int, Wait], second: Mapping[int, Wait], total: int) -> Saved:
    """Compare two configurations by the rounds of their runs, by seed; seeds that one of them lacks are left out.

    A run that never got there counts as ``total`` rounds, which is the least that it can have needed: differences are
    of the rounds spent below the target within ``total`` (restricted mean times), not of sentinels. Where neither
    run of a pair got there the difference is 0; the signed-rank test ranks these with the others and then drops
    them (Pratt 1959, Journal of the American Statistical Association 54).

    Args:
        first: rounds to the target by seed.
        second: likewise.
        total: rounds of a run.
    """
    seeds = sorted(first.keys() & second.keys())
    pairs = np.array([[_rounds(each[seed], total) for each in (first, second)] for seed in seeds], dtype=np.float64)
    censored = (sum(not first[seed].reached for seed in seeds), sum(not second[seed].reached for seed in seeds))
    if not seeds:
        return Saved(0, None, None, None, None, None, censored)
    differences = pairs[:, 0] - pairs[:, 1]
    centre, whole = float(differences.mean()), float(pairs[:, 1].mean())
    share = centre / whole if whole else None
    if len(seeds) < 2:
        return Saved(1, centre, None, None, share, None, censored)
    low, high = resampled(differences) if len(seeds) >= FEWEST else (None, None)
    return Saved(len(seeds), centre, low, high, share, signed_ranks(differences), censored)


def signed_ranks(differences: NDArray[np.float64]) -> float:
    """Wilcoxon's signed-rank test, two-sided, with Pratt's zeros: the p-value.

    Up to ``EXACT`` pairs it is exact, with ties and zeros too, whatever the version of SciPy makes of them: the share
    of all signs of the ranks whose sum is as far from 0.

    Args:
        differences: float64 [N], N at least 1.

    >>> signed_ranks(np.array([-20.0, -15.0, -15.0, -10.0, 0.0]))
    0.125
    """
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    if not ranks.any():
        return 1.0
    if len(ranks) > EXACT:
        return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)
    signs = 1 - 2 * (np.arange(1 << len(ranks))[:, None] >> np.arange(len(ranks)) & 1)
    return float(np.mean(np.abs(signs @ ranks) >= abs(ranks.sum())))


def resampled(values: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap interval of the mean, by percentiles of ``RESAMPLES`` resamples.

    Args:
        values: float64 [N].
    """
    draws = seeding.numpy_generator(0, "compare", "bootstrap")
    means = values[draws.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _rounds(wait: Wait, total: int) -> int:
    return wait.round if wait.reached else total

"""Shapley values as means over random permutations: truncated Monte Carlo, and GTG-Shapley as published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim import seeding
from fedsim.errors import invalid
from server.contribution.game import P, Remembered, Utility, Values, check_players, gains

_WINDOW = 10  # running means that must agree
_LEAST_SWEEPS = 2  # of one there is no variance

Sweep = Callable[[np.random.Generator], NDArray[np.int64]]
"""Draws some permutations, int64 [strata, m], each row from a distribution of its own."""


@dataclass(frozen=True)
class Stopping:
    """When enough permutations are drawn.

    Attributes:
        truncation: a permutation is cut where the coalition so far is this close to everybody's worth; the rest
            of its players then get 0 from it. In units of the utility.
        patience: steps that it must stay so close before it is cut.
        least: permutations drawn at least.
        most: permutations drawn at most; by default 50 a player.
        convergence: stop when the last 10 running means differ from the last one by this share of it, in the
            mean over players.

    Raises:
        FedsimError: a number out of its range.
    """

    truncation: float
    patience: int = 0
    least: int = 30
    most: int | None = None
    convergence: float = 0.05

    def __post_init__(self) -> None:
        for name, smallest in (("truncation", 0), ("patience", 0), ("least", 1), ("most", 1), ("convergence", 0)):
            value = getattr(self, name)
            if value is not None and not value >= smallest:  # also where it is no number
                raise invalid(name, value, f"must be {smallest} or more", "Correct it")


def truncated_monte_carlo(
    players: Sequence[P], utility: Utility[P], *, seed: int = 0, stopping: Stopping | None = None
) -> Values[P]:
    """Mean marginal contributions over random permutations, each cut where nothing is left to gain.

    Ghorbani and Zou, ICML 2019, arXiv:1904.02868, algorithm 1; the defaults are those of the authors of
    GTG-Shapley for federated learning: cut at 0.001, at once.

    Args:
        players: any hashable names, each once.
        utility: what a coalition is worth.
        seed: of the permutations.
        stopping: when to cut and to stop.

    Raises:
        FedsimError: no players, or one named twice.
    """
    players = check_players(players)

    def sweep(draws: np.random.Generator) -> NDArray[np.int64]:
        return draws.permutation(len(players))[None]

    return _sampled(players, Remembered(utility), sweep, seed, stopping or Stopping(truncation=0.001))


def published_gtg(
    players: Sequence[P],
    utility: Utility[P],
    *,
    seed: int = 0,
    round_truncation: float = 0.001,
    stopping: Stopping | None = None,
) -> Values[P]:
    """GTG-Shapley as its authors' code has it: guided permutations, truncated within and between rounds.

    Liu et al., ACM TIST 2022, arXiv:2109.02053; ``gtg`` gets more out of as many evaluations.

    Guided means that each player in turn comes first, as the first places of a permutation matter most and the
    last ones are cut. Since every player is first equally often, the mean over permutations is unbiased but for
    truncation, and its variance is that of a stratified sample.

    Args:
        players: any hashable names, each once.
        utility: what a coalition is worth.
        seed: of the permutations.
        round_truncation: where all players together gain no more than this, every value is 0.
        stopping: when to cut and to stop.

    Raises:
        FedsimError: no players, or one named twice.
    """
    players = check_players(players)
    remembered = Remembered(utility)
    before, after = gains(players, remembered)
    if abs(after - before) <= round_truncation:
        return Values(dict.fromkeys(players, 0.0), evaluations=remembered.evaluations, stopped_by="truncation")

    def sweep(draws: np.random.Generator) -> NDArray[np.int64]:
        size = len(players)
        rows = [np.append(i, draws.permutation(np.delete(np.arange(size), i))) for i in range(size)]
        return np.stack(rows).astype(np.int64)

    return _sampled(players, remembered, sweep, seed, stopping or Stopping(truncation=0.001))


def _sampled(players: list[P], utility: Remembered[P], sweep: Sweep, seed: int, stopping: Stopping) -> Values[P]:
    draws = seeding.numpy_generator(seed, "permutations")
    most = 50 * len(players) if stopping.most is None else stopping.most
    sweeps: list[NDArray[np.float64]] = []
    drawn, stopped_by = 0, "permutations"
    while drawn < most or len(sweeps) < _LEAST_SWEEPS:
        sweeps.append(np.stack([_marginals(players, utility, order, stopping) for order in sweep(draws)]))
        drawn += len(sweeps[-1])
        enough = drawn > stopping.least and len(sweeps) >= _LEAST_SWEEPS
        if enough and _spread(np.concatenate(sweeps)) <= stopping.convergence:
            stopped_by = "convergence"
            break
    means, errors = _estimate(np.stack(sweeps))
    return Values(
        values=dict(zip(players, means.tolist(), strict=True)),
        errors=dict(zip(players, errors.tolist(), strict=True)),
        degrees=len(sweeps[0]) * (len(sweeps) - 1),
        evaluations=utility.evaluations,
        permutations=drawn,
        stopped_by=stopped_by,
    )


def _marginals(
    players: list[P], utility: Remembered[P], order: NDArray[np.int64], stopping: Stopping
) -> NDArray[np.float64]:
    """What each player adds when they come in this order, float64 [m]; 0 for those behind the cut."""
    worth, everybody = gains(players, utility)
    found = np.zeros(len(players))
    coalition: frozenset[P] = frozenset()
    close = 0
    for i in order:
        close = close + 1 if abs(everybody - worth) < stopping.truncation else 0
        if close > stopping.patience:
            break
        coalition |= {players[i]}
        after = utility(coalition)
        found[i] = after - worth
        worth = after
    return found


def _spread(marginals: NDArray[np.float64]) -> float:
    """How far the last running means are from the last one, relative to it."""
    means = marginals.cumsum(0)[-_WINDOW:] / np.arange(1, len(marginals) + 1)[-_WINDOW:, None]
    return float((np.abs(means - means[-1]) / (np.abs(means[-1]) + 1e-12)).mean(1).max())


def _estimate(sweeps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard error of a stratified sample, float64 [m] each, from [sweeps, strata, m]."""
    count, strata, _ = sweeps.shape
    variance = sweeps.var(axis=0, ddof=1).sum(0) / (count * strata**2)
    return sweeps.mean((0, 1)), np.sqrt(variance)

"""GTG-Shapley with every coalition used for all it tells: balanced orders, means by place, a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim import seeding
from fedsim.errors import invalid
from server.contribution.game import P, Remembered, Utility, Values, check_players, gains
from server.contribution.marginals import Marginals

_LEAST_SWEEPS = 3  # of two, the standard error itself is too uncertain to stop by
_FEW = 8  # players of whose coalitions three sweeps may take more than half


@dataclass(frozen=True)
class Effort:
    """How far GTG-Shapley goes.

    Attributes:
        truncation: an order is cut where the coalition so far is this close to everybody's worth; the rest of its
            players then get 0 from it. In units of the utility.
        precision: stop when the standard error of all values together is at most this share of their distance
            from their mean, as it is that distance which ranks players.
        budget: coalitions measured at most, that of nobody included; one sweep of m orders, ``m (m - 1) + 2``, must
            fit. By default half of all, ``2^(m - 1)``, but no more than 100 a player; up to 8 players three sweeps
            are then walked in any case, and of more one.
        most: orders walked at most; by default 50 a player. The first three sweeps are walked in any case, where the
            budget holds them.

    Raises:
        FedsimError: a number out of its range.
    """

    truncation: float = 0.001
    precision: float = 0.05
    budget: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        for name, smallest in (("truncation", 0), ("precision", 0), ("budget", 1), ("most", 1)):
            value = getattr(self, name)
            if value is not None and not value >= smallest:  # NaN is not
                raise invalid(name, value, f"must be {smallest} or more", "Correct it")


def gtg(
    players: Sequence[P],
    utility: Utility[P],
    *,
    seed: int = 0,
    round_truncation: float = 0.001,
    effort: Effort | None = None,
) -> Values[P]:
    """GTG-Shapley from guided orders, truncated within and between rounds, each coalition used for all it tells.

    Liu et al., ACM TIST 2022, arXiv:2109.02053, changed in three ways (``published_gtg`` has the original). Each
    player comes once in every place of a sweep, not in the first alone. A value is the mean over places of the
    mean over all different marginal contributions known for that place, whichever orders measured their two
    coalitions, so that it becomes exact when everything is known. It stops by its own standard error, or before a
    sweep that might go beyond the budget. After one sweep alone errors are not known, and infinite.

    Args:
        players: any hashable names, each once.
        utility: what a coalition is worth.
        seed: of the orders.
        round_truncation: where all players together gain no more than this, every value is 0.
        effort: when to cut and to stop.

    Raises:
        FedsimError: no players, or one named twice; or more of them than one sweep within the budget takes.
    """
    players, effort = check_players(players), effort or Effort()
    _check_budget(len(players), effort)
    remembered = Remembered(utility)
    before, after = gains(players, remembered)
    if abs(after - before) <= round_truncation:
        return Values(dict.fromkeys(players, 0.0), evaluations=remembered.evaluations, stopped_by="truncation")
    draws = seeding.numpy_generator(seed, "permutations")
    known = Marginals(len(players), before, after)
    stopped_by = None
    while not stopped_by:
        orders = balanced(len(players), draws)
        stopped_by = _beyond(orders, known, effort)
        if not stopped_by:
            walk(orders, players, remembered, known, effort.truncation)
            stopped_by = _enough(known, effort)
    values, errors = known.estimate()
    return Values(
        values=dict(zip(players, values.tolist(), strict=True)),
        errors=dict(zip(players, errors.tolist(), strict=True)),
        degrees=0 if known.complete else known.sweeps - 1,
        evaluations=remembered.evaluations,
        permutations=known.sweeps * len(players),
        stopped_by=stopped_by,
    )


def _check_budget(size: int, effort: Effort) -> None:
    """Refuse a budget within which not every player might come in every place.

    Each place but the last has m coalitions in a sweep at most; nobody and everybody are measured beside them.
    """
    least = min(size * (size - 1) + 2, 1 << size)
    if effort.budget is not None and effort.budget < least:
        problem = f"one sweep over {size} players measures up to {least} coalitions"
        raise invalid("budget", effort.budget, problem, f"Give {least} or more, or leave it out")


def _beyond(orders: NDArray[np.int64], known: Marginals, effort: Effort) -> str | None:
    """Whether walking these orders might cost more than allowed."""
    budget, free = effort.budget, 0  # the first sweep fits
    if budget is None:
        budget, free = min((1 << known.size) // 2, 100 * known.size), _LEAST_SWEEPS if known.size <= _FEW else 1
    if known.sweeps >= free and known.coalitions + known.unknown(orders) > budget:
        return "budget"
    if known.sweeps < _LEAST_SWEEPS:
        return None
    most = 50 * known.size if effort.most is None else effort.most
    return "permutations" if (known.sweeps + 1) * known.size > most else None


def _enough(known: Marginals, effort: Effort) -> str | None:
    """Whether what is known does."""
    if known.complete:
        return "all"
    if known.sweeps < _LEAST_SWEEPS:
        return None
    values, errors = known.estimate()
    spread = np.linalg.norm(values - values.mean())
    return "precision" if np.linalg.norm(errors) <= effort.precision * spread else None


def balanced(size: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """A sweep of orders, int64 [m, m], a row an order: each player comes once in each place.

    Each row alone is a uniformly random order. They are the shifts of one circle, read at places drawn at random.
    """
    circle, places = draws.permutation(size), draws.permutation(size)
    orders: NDArray[np.int64] = circle[(places[None] + np.arange(size)[:, None]) % size]
    return orders


def walk(
    orders: NDArray[np.int64], players: list[P], utility: Remembered[P], known: Marginals, truncation: float
) -> None:
    """Measure the coalitions along a sweep of orders, place by place in all of them together, and note them."""
    known.start_sweep()
    coalitions, cut = [0] * len(orders), [False] * len(orders)
    for place in range(orders.shape[1]):
        chosen = [int(i) for i in orders[:, place]]
        cut = [c or abs(known.everybody - known.worth(a)) < truncation for c, a in zip(cut, coalitions, strict=True)]
        after = [a | 1 << i for a, i in zip(coalitions, chosen, strict=True)]
        measured = [b for b, c in zip(after, cut, strict=True) if not c]
        names = [frozenset(p for i, p in enumerate(players) if b >> i & 1) for b in measured]
        known.note(dict(zip(measured, utility.many(names), strict=True)))
        for a, i, c in zip(coalitions, chosen, cut, strict=True):
            if c:
                known.cut(a, i)
        coalitions = after

"""Games whose values are known, and players with names of every kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import permutations

import numpy as np

from server.contribution import Utility

PLAYERS: list[Hashable] = [7, "north", (3, 1), -40, frozenset({2}), 10**12]
"""Neither numbers from 0, nor anything that could be sorted."""


def table_game(players: Sequence[Hashable], seed: int) -> dict[frozenset[Hashable], float]:
    """A worth for each coalition, drawn."""
    draws = np.random.default_rng(seed)
    return {
        frozenset(p for i, p in enumerate(players) if mask >> i & 1): float(draws.normal())
        for mask in range(2 ** len(players))
    }


def coverage_game(players: Sequence[Hashable], seed: int) -> Utility[Hashable]:
    """``v(A) = 0.1 + 0.9 mean_c max_{i in A} b_ic q_i``: a class is known as well as the best who has it knows it."""
    draws = np.random.default_rng(seed)
    known = (draws.random((len(players), 10)) < 0.3) * draws.uniform(0.6, 1, (len(players), 1))

    def utility(coalition: frozenset[Hashable]) -> float:
        rows = [known[i] for i, player in enumerate(players) if player in coalition]
        return 0.1 + 0.9 * float(np.max(rows, axis=0).mean()) if rows else 0.1

    return utility


def averaging_game(players: Sequence[Hashable], seed: int) -> Utility[Hashable]:
    """FedAvg of a linear model: minus the squared distance of the mean of a coalition's updates to the optimum.

    Clients agree on some of the way, differ in taste, and every third one goes astray. Nobody stays at the start.
    """
    draws = np.random.default_rng(seed)
    optimum, astray = draws.normal(size=20), draws.normal(size=20)
    updates = 0.5 * optimum + draws.normal(size=(len(players), 20)) * draws.uniform(0.2, 1.5, (len(players), 1))
    updates[::3] += 0.7 * astray

    def utility(coalition: frozenset[Hashable]) -> float:
        rows = [updates[i] for i, player in enumerate(players) if player in coalition]
        return -float(np.square(np.mean(rows, axis=0) - optimum if rows else optimum).sum())

    return utility


def by_definition(players: Sequence[Hashable], utility: Utility[Hashable]) -> dict[Hashable, float]:
    """The mean marginal contribution over all orders: a second way to the Shapley value."""
    total = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for i, player in enumerate(order):
            total[player] += utility(frozenset(order[: i + 1])) - utility(frozenset(order[:i]))
    return {player: value / len(orders) for player, value in total.items()}

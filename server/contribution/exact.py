"""Values that draw nothing: the exact Shapley value, and leaving one out."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import invalid
from server.contribution.game import P, Remembered, Utility, Values, check_players, gains

MOST_PLAYERS = 16
"""Beyond that, 65,536 coalitions, nobody waits for exact values."""


def exact(
    players: Sequence[P], utility: Utility[P], *, truncation: float = 0.0, empty: float | None = None
) -> Values[P]:
    """The Shapley value (Shapley 1953), over all ``2^m`` coalitions of ``m`` players.

    ``phi_i = sum over coalitions A with i of (v(A) - v(A without i)) / (m binom(m - 1, |A| - 1))``.

    Args:
        players: any hashable names, each once.
        utility: what a coalition is worth.
        truncation: where all players together gain no more than this, every value is 0 and no other coalition
            is measured; with 0 that never happens.
        empty: taken for the worth of nobody in place of what the utility says. With 0, each value is
            ``v({}) / m`` too high, as in the code published with arXiv:2106.10734.

    Raises:
        FedsimError: too many players, or one named twice.
    """
    players = check_players(players)
    size = len(players)
    if size > MOST_PLAYERS:
        raise invalid(
            "players", f"{size} clients", f"exact values would measure {2**size} coalitions", 'Use the method "gtg"'
        )
    remembered = Remembered(utility)
    before, after = gains(players, remembered)
    if truncation > 0 and abs(after - before) <= truncation:
        return Values(dict.fromkeys(players, 0.0), evaluations=remembered.evaluations, stopped_by="truncation")
    coalitions = [frozenset(p for i, p in enumerate(players) if mask >> i & 1) for mask in range(2**size)]
    worth = np.array(remembered.many(coalitions))
    if empty is not None:
        worth[0] = empty
    found = shapley_of_table(worth)
    return Values(dict(zip(players, found.tolist(), strict=True)), evaluations=remembered.evaluations)


def shapley_of_table(worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapley values, float64 [m], of a game given as a table.

    Args:
        worth: float64 [2^m]; entry ``k`` belongs to the players whose bits are set in ``k``.
    """
    size = len(worth).bit_length() - 1
    masks = np.arange(len(worth))
    members = np.array([int(mask).bit_count() for mask in masks])
    weight = np.array([0.0] + [1 / (size * comb(size - 1, n - 1)) for n in range(1, size + 1)])
    found = np.empty(size)
    for i in range(size):
        own = masks[masks >> i & 1 == 1]
        found[i] = weight[members[own]] @ (worth[own] - worth[own ^ (1 << i)])
    return found


def leave_one_out(players: Sequence[P], utility: Utility[P]) -> Values[P]:
    """What all players lose without each one: ``v(everybody) - v(everybody but i)``, in ``m + 1`` evaluations.

    Cheap, but the values do not sum to what was gained, and of two players with the same to give each gets 0.

    Raises:
        FedsimError: no players, or one named twice.
    """
    players = check_players(players)
    everybody = frozenset(players)
    remembered = Remembered(utility)
    whole, *rest = remembered.many([everybody, *(everybody - {player} for player in players)])
    values = {player: whole - without for player, without in zip(players, rest, strict=True)}
    return Values(values, evaluations=remembered.evaluations)

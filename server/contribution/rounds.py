"""Values over several rounds: the sum of each round's, or those of the run as one long round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import hypot

from server.contribution.coalitions import Update
from server.contribution.game import P, Values


def multi_round(rounds: Iterable[Values[P]]) -> Values[P]:
    """Multi-round reconstruction: the sum of each round's values; who was not chosen gets 0 from that round.

    Song, Tong and Wei, IEEE Big Data 2019, of each round's exact values. Sums make sense as the Shapley value is
    additive over games.
    """
    values: dict[P, float] = {}
    errors: dict[P, float] = {}
    evaluations = permutations = degrees = 0
    for one in rounds:
        for player, value in one.values.items():
            values[player] = values.get(player, 0.0) + value
            errors[player] = hypot(errors.get(player, 0.0), one.error(player))
        evaluations += one.evaluations
        permutations += one.permutations
        degrees += one.degrees
    return Values(values, errors, degrees, evaluations, permutations, stopped_by="rounds")


def one_round(rounds: Iterable[Mapping[P, Update]]) -> dict[P, Update]:
    """One-round reconstruction: each client's updates of all rounds, summed to a single one.

    Song, Tong and Wei, IEEE Big Data 2019: the coalitions' models are then built from the model before the first
    round. Made for runs in which every client takes part in every round with the same number of examples:
    everybody's model is then the last global one. A client that was seldom chosen has a small sum, but its
    full weight.

    Returns:
        For each client, in the order met, the sum and the number of examples of its last round.
    """
    found: dict[P, Update] = {}
    for updates in rounds:
        for player, update in updates.items():
            before = found.get(player)
            arrays = update.arrays if before is None else {k: before.arrays[k] + v for k, v in update.arrays.items()}
            found[player] = Update(arrays, update.examples)
    return found

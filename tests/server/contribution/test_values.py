"""The Shapley axioms, closed forms, and how far sampled values are from exact ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import pytest
from games import PLAYERS, by_definition, coverage_game, table_game
from scipy.stats import spearmanr

from fedsim.errors import FedsimError
from server.contribution import (
    ESTIMATORS,
    Remembered,
    Stopping,
    Values,
    exact,
    gtg,
    leave_one_out,
    multi_round,
    published_gtg,
    truncated_monte_carlo,
)

UNCUT = Stopping(truncation=0, least=40, most=400)
PERMUTED: list[Callable[..., Values[Hashable]]] = [truncated_monte_carlo, published_gtg]
SAMPLED = [*PERMUTED, gtg]


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_exact_values_are_the_mean_over_all_orders_and_efficient(size: int) -> None:
    players = PLAYERS[:size]
    worth = table_game(players, seed=size)
    found = exact(players, worth.__getitem__)
    expected = by_definition(players, worth.__getitem__)
    assert found.values == pytest.approx(expected, abs=1e-12)
    assert sum(found.values.values()) == pytest.approx(worth[frozenset(players)] - worth[frozenset()], abs=1e-12)
    assert found.evaluations == 2**size
    assert found.interval(players[0]) == (found.values[players[0]],) * 2


def test_players_who_can_be_exchanged_get_the_same() -> None:
    worth = table_game(PLAYERS, seed=1)
    first, second = PLAYERS[1], PLAYERS[4]
    swap = {first: second, second: first}

    def symmetric(coalition: frozenset[Hashable]) -> float:
        return worth[coalition] + worth[frozenset(swap.get(player, player) for player in coalition)]

    found = exact(PLAYERS, symmetric).values
    assert found[first] == pytest.approx(found[second], abs=1e-12)
    assert found[first] != pytest.approx(found[PLAYERS[0]], abs=1e-3)


@pytest.mark.parametrize(
    "method", ["exact", "multi_round", "one_round", "leave_one_out", "gtg", "published_gtg", "truncated_monte_carlo"]
)
def test_who_adds_nothing_gets_exactly_nothing(method: str) -> None:
    worth = table_game(PLAYERS, seed=2)
    nobody = PLAYERS[3]
    found = ESTIMATORS.create(method)(PLAYERS, lambda coalition: worth[coalition - {nobody}], seed=5)
    assert found.values[nobody] == 0
    assert found.error(nobody) == 0
    assert any(found.values[player] for player in PLAYERS if player != nobody)


def test_values_of_a_sum_of_games_are_the_sums_of_values() -> None:
    one, other = table_game(PLAYERS, seed=3), table_game(PLAYERS, seed=4)
    apart = multi_round([exact(PLAYERS, one.__getitem__), exact(PLAYERS, other.__getitem__)])
    together = exact(PLAYERS, lambda coalition: one[coalition] + other[coalition])
    assert together.values == pytest.approx(apart.values, abs=1e-12)
    assert apart.evaluations == 2 * together.evaluations


def test_rounds_with_other_cohorts_add_up() -> None:
    first = Values({"a": 1.0, "b": 2.0}, {"a": 0.3, "b": 0.0}, degrees=4)
    second = Values({"b": 5.0, "c": -1.0}, {"b": 0.1, "c": 0.2}, degrees=6)
    found = multi_round([first, second])
    assert found.values == {"a": 1, "b": 7, "c": -1}
    assert found.errors == pytest.approx({"a": 0.3, "b": 0.1, "c": 0.2})


def additive(coalition: frozenset[Hashable]) -> float:
    return 2.0 + sum(PLAYERS.index(player) + 1 for player in coalition)


@pytest.mark.parametrize("method", ESTIMATORS.names())
def test_in_an_additive_game_everyone_gets_what_they_add(method: str) -> None:
    """The marginal contribution is the same in every coalition, so that all methods agree, without any spread."""
    found = ESTIMATORS.create(method)(PLAYERS, additive, seed=0)
    assert found.values == pytest.approx({player: i + 1 for i, player in enumerate(PLAYERS)}, abs=1e-12)
    assert max(map(found.error, PLAYERS)) < 1e-12


def glove(coalition: frozenset[Hashable]) -> float:
    """Pairs of one left glove, which the first two players have, and one right, which the others have."""
    left = len(coalition & {7, "north"})
    return float(min(left, len(coalition) - left))


def test_the_glove_game() -> None:
    """One left glove and two right ones: 4/6, 1/6, 1/6 (Shapley 1953)."""
    three = [7, (3, 1), -40]
    assert exact(three, glove).values == pytest.approx({7: 4 / 6, (3, 1): 1 / 6, -40: 1 / 6}, abs=1e-12)
    assert leave_one_out(three, glove).values == {7: 1, (3, 1): 0, -40: 0}
    for method in PERMUTED:
        found = method(three, glove, seed=1, stopping=Stopping(truncation=0.001, least=3_000, most=3_000))
        for player in three:
            assert found.error(player) < 0.012
            assert abs(found.values[player] - exact(three, glove).values[player]) <= 5 * found.error(player) + 1e-12


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("seed", range(5))
def test_sampled_values_come_close_to_exact_ones(method: Callable[..., Values[Hashable]], seed: int) -> None:
    players = [f"client {i}" for i in range(8)]
    utility = coverage_game(players, seed)
    right, found = exact(players, utility), method(players, utility, seed=seed)
    distance = np.linalg.norm([found.values[p] - right.values[p] for p in players])
    assert distance < 0.05
    assert 0 < found.evaluations < right.evaluations
    gained = utility(frozenset(players)) - utility(frozenset())
    assert sum(found.values.values()) == pytest.approx(gained, abs=0.001)
    assert found == method(players, utility, seed=seed)
    assert found.values != method(players, utility, seed=seed + 1).values


@pytest.mark.parametrize("method", PERMUTED)
def test_intervals_cover_the_exact_value_as_often_as_they_say(method: Callable[..., Values[Hashable]]) -> None:
    worth = table_game(PLAYERS, seed=9)
    right = exact(PLAYERS, worth.__getitem__).values
    covered = []
    for seed in range(100):
        found = method(PLAYERS, worth.__getitem__, seed=seed, stopping=UNCUT)
        assert found.stopped_by in {"convergence", "permutations"}
        covered += [low <= right[p] <= high for p in PLAYERS for low, high in [found.interval(p)]]
    assert 0.92 < np.mean(covered) < 0.98


def test_guided_permutations_are_closer_at_the_same_price() -> None:
    worth = table_game(PLAYERS, seed=10)
    right = exact(PLAYERS, worth.__getitem__).values
    fixed = Stopping(truncation=0, least=60, most=60, convergence=0)
    squares = {
        method: np.mean([
            (method(PLAYERS, worth.__getitem__, seed=seed, stopping=fixed).values[p] - right[p]) ** 2
            for seed in range(100) for p in PLAYERS
        ])
        for method in PERMUTED
    }  # fmt: skip
    assert squares[published_gtg] < 0.9 * squares[truncated_monte_carlo]


def test_gtg_of_ten_clients_ranks_them_with_half_of_the_evaluations() -> None:
    players = list(range(100, 110))
    ranks = []
    for seed in range(10):
        utility = coverage_game(players, seed)
        right, found = exact(players, utility), gtg(players, utility, seed=seed)
        assert found.evaluations <= right.evaluations / 2
        ranks.append(spearmanr([right.values[p] for p in players], [found.values[p] for p in players]).statistic)
    assert np.median(ranks) >= 0.95


def test_a_coalition_is_measured_once() -> None:
    asked: list[frozenset[Hashable]] = []
    worth = table_game(PLAYERS, seed=6)

    def utility(coalition: frozenset[Hashable]) -> float:
        asked.append(coalition)
        return worth[coalition]

    remembered = Remembered(utility)
    values = [estimate(PLAYERS, remembered) for estimate in (exact, leave_one_out, *SAMPLED)]
    assert len(asked) == len(set(asked))
    assert set(asked) == set(worth)
    assert remembered.evaluations == len(asked)
    assert values[0].evaluations == 2 ** len(PLAYERS)
    assert values[1].evaluations == len(PLAYERS) + 1
    asked.clear()
    found = gtg(PLAYERS, utility)
    assert len(asked) == len(set(asked)) == found.evaluations


def test_a_round_that_changes_nothing_is_not_looked_at() -> None:
    def utility(coalition: frozenset[Hashable]) -> float:
        return 1.0005 if len(coalition) == len(PLAYERS) else float(len(coalition) == 0)

    for found in (gtg(PLAYERS, utility), published_gtg(PLAYERS, utility), exact(PLAYERS, utility, truncation=0.001)):
        assert found.values == dict.fromkeys(PLAYERS, 0.0)
        assert (found.evaluations, found.stopped_by) == (2, "truncation")
    assert any(exact(PLAYERS, utility).values.values())


def test_worth_nothing_at_the_start_adds_the_start_to_every_value() -> None:
    worth = table_game(PLAYERS, seed=8)
    right = ESTIMATORS.create("exact")(PLAYERS, worth.__getitem__, seed=0).values
    study = ESTIMATORS.create("exact", study_mode=True)(PLAYERS, worth.__getitem__, seed=0).values
    extra = worth[frozenset()] / len(PLAYERS)
    assert study == pytest.approx({player: value + extra for player, value in right.items()}, abs=1e-12)


def test_what_cannot_be_valued_is_refused() -> None:
    with pytest.raises(FedsimError, match="131072"):
        exact(range(17), additive)
    with pytest.raises(FedsimError, match="each named once"):
        gtg([1, 2, 1], additive)
    with pytest.raises(FedsimError, match="nan"):
        exact([1, 2], lambda coalition: float("nan"))
    with pytest.raises(FedsimError, match="truncation = -1"):
        ESTIMATORS.create("gtg", truncation=-1.0)
    with pytest.raises(FedsimError, match="budget = 0"):
        ESTIMATORS.create("gtg", budget=0)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_truncation_that_nothing_can_come_within_is_refused(value: float) -> None:
    with pytest.raises(FedsimError, match=r"truncation = .* must be 0 or more"):
        Stopping(truncation=value)

"""GTG-Shapley over balanced orders: closed forms, no bias, honest errors, and what half of the evaluations buy."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from games import averaging_game, table_game
from scipy.stats import spearmanr

from fedsim import seeding
from fedsim.errors import FedsimError
from server.contribution import Effort, Stopping, Utility, Values, exact, gtg, published_gtg
from server.contribution.guided import balanced

EIGHT = [f"client {i}" for i in range(8)]
TEN = list(range(100, 110))
HALF = Effort(truncation=0, precision=0)


def vector(found: Values[Hashable]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(list(found.values.values()))


def glove(coalition: frozenset[Hashable]) -> float:
    """Pairs of a left glove, which the first four have, and a right one."""
    left = len(coalition & set(EIGHT[:4]))
    return float(min(left, len(coalition) - left))


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_each_player_comes_once_in_each_place_of_a_sweep(size: int) -> None:
    orders = balanced(size, seeding.numpy_generator(0, "orders"))
    for line in [*orders, *orders.T]:
        assert sorted(line) == list(range(size))


def test_orders_are_uniformly_random() -> None:
    """Each of the six orders of three is as frequent as another."""
    draws = seeding.numpy_generator(1, "orders")
    rows = [tuple(row) for _ in range(2_000) for row in balanced(3, draws)]
    shares = [rows.count(order) / len(rows) for order in set(rows)]
    assert len(shares) == 6
    assert max(abs(share - 1 / 6) for share in shares) < 0.03


def test_values_are_exact_once_everything_is_known() -> None:
    """Three sweeps of three players walk all eight coalitions: 4/6, 1/6, 1/6 (Shapley 1953)."""
    found = gtg([EIGHT[0], EIGHT[4], EIGHT[5]], glove, effort=Effort(budget=8))
    assert found.stopped_by == "all"
    assert list(found.values.values()) == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=1e-12)
    assert max(found.errors.values()) == 0
    assert found.interval(EIGHT[0]) == (found.values[EIGHT[0]],) * 2
    worth = table_game(EIGHT, seed=3)
    whole = gtg(EIGHT, worth.__getitem__, effort=Effort(truncation=0, precision=0, budget=256, most=10**6))
    assert whole.stopped_by == "all"
    assert whole.values == pytest.approx(exact(EIGHT, worth.__getitem__).values, abs=1e-12)


@pytest.mark.parametrize(
    "utility", [glove, table_game(EIGHT, seed=1).__getitem__, averaging_game(EIGHT, 1)], ids=["glove", "table", "mean"]
)
def test_half_of_the_evaluations_give_efficient_values_without_bias(utility: Utility[Hashable]) -> None:
    right = exact(EIGHT, utility)
    found = [gtg(EIGHT, utility, seed=seed, effort=HALF) for seed in range(200)]
    assert {one.stopped_by for one in found} == {"budget"}
    assert max(one.evaluations for one in found) <= right.evaluations / 2
    gain = utility(frozenset(EIGHT)) - utility(frozenset())
    assert [vector(one).sum() for one in found] == pytest.approx([gain] * 200, abs=1e-9)
    values = np.stack([vector(one) for one in found])
    off = (values.mean(0) - vector(right)) / (values.std(0, ddof=1) / np.sqrt(200))
    assert np.abs(off).max() < 4.5
    assert values.std(0).min() > 0


@pytest.mark.parametrize("players", [EIGHT, TEN], ids=len)
def test_intervals_cover_the_exact_value_at_least_as_often_as_they_say(players: list[Hashable]) -> None:
    """The jackknife's variance is too large in the mean, the more so the more of all coalitions are known."""
    worth = table_game(players, seed=9)
    right = exact(players, worth.__getitem__).values
    found = [gtg(players, worth.__getitem__, seed=seed, effort=HALF) for seed in range(60)]
    hit = [low <= right[p] <= high for one in found for p in players for low, high in [one.interval(p)]]
    assert np.mean(hit) > 0.93
    errors = np.mean([np.square(vector(one) - list(right.values())).sum() for one in found])
    claimed = np.mean([np.square(list(one.errors.values())).sum() for one in found])
    assert 0.9 < claimed / errors < 2.5


def test_who_comes_behind_a_cut_gets_nothing_from_that_order() -> None:
    """One of them is as good as all: every order is cut after its first place, and each gets the same."""
    found = gtg(TEN, lambda coalition: float(bool(coalition)))
    assert found.values == pytest.approx(dict.fromkeys(TEN, 0.1), abs=1e-12)
    assert found.evaluations == len(TEN) + 2


def test_cutting_leaves_values_efficient_up_to_its_tolerance() -> None:
    def saturating(coalition: frozenset[Hashable]) -> float:
        return 1 - 0.5 ** sum(TEN.index(player) + 1 for player in coalition)  # type: ignore[arg-type]

    right = exact(TEN, saturating)
    for seed in range(5):
        found = gtg(TEN, saturating, seed=seed, effort=Effort(truncation=0.01))
        assert sum(found.values.values()) == pytest.approx(1, abs=0.01)
        assert vector(found) == pytest.approx(vector(right), abs=0.03)
        assert found.evaluations < gtg(TEN, saturating, seed=seed, effort=HALF).evaluations


@pytest.mark.parametrize("budget", [250, 300, 512])
def test_the_budget_holds(budget: int) -> None:
    found = gtg(TEN, averaging_game(TEN, 0), effort=Effort(precision=0, budget=budget))
    assert budget - 90 < found.evaluations <= budget
    assert found.stopped_by == "budget"


@pytest.mark.parametrize(("players", "budget", "sweeps"), [(5, 22, 1), (6, 48, 2), (10, 100, 1), (10, 180, 2)])
def test_a_budget_holds_from_the_first_sweep_on(players: int, budget: int, sweeps: int) -> None:
    names = TEN[:players]
    utility = averaging_game(names, 0)
    gain = utility(frozenset(names)) - utility(frozenset())
    for seed in range(20):
        found = gtg(names, utility, seed=seed, effort=Effort(truncation=0, precision=0, budget=budget))
        assert found.evaluations <= budget
        assert found.stopped_by == "budget"
        assert found.permutations >= sweeps * players
        assert vector(found).sum() == pytest.approx(gain)
        assert all(np.isfinite(error) == (found.permutations > players) for error in found.errors.values())


def test_after_one_sweep_nothing_is_known_of_errors_and_who_adds_nothing_gets_nothing() -> None:
    def square(coalition: frozenset[Hashable]) -> float:
        return float(len(coalition & set(TEN[1:])) ** 2)

    found = gtg(TEN, square, effort=Effort(truncation=0, budget=92))
    assert found.permutations == len(TEN)
    assert found.values[TEN[0]] == 0
    assert vector(found).sum() == pytest.approx(81)
    assert found.interval(TEN[1]) == (-np.inf, np.inf)


def test_a_budget_in_which_no_sweep_fits_is_refused_before_anything_is_measured() -> None:
    def never(_: frozenset[Hashable]) -> float:
        raise AssertionError

    with pytest.raises(FedsimError, match=r"budget = 8: one sweep over 5 players measures up to 22.* Give 22 or more"):
        gtg(TEN[:5], never, effort=Effort(budget=8))
    with pytest.raises(FedsimError, match="budget = 91"):
        gtg(TEN, never, effort=Effort(budget=91))


def test_of_sixty_players_the_default_measures_no_more_than_a_hundred_a_player() -> None:
    sixty = list(range(60))
    found = gtg(sixty, lambda coalition: float(np.sqrt(sum(coalition))), effort=Effort(truncation=0))
    assert 60 * 59 <= found.evaluations <= 6_000
    assert found.stopped_by == "budget"
    assert max(sixty, key=lambda i: found.values[i]) > 40


@pytest.mark.parametrize("name", ["truncation", "precision"])
@pytest.mark.parametrize("value", [float("nan"), -0.1])
def test_how_far_to_go_is_a_number(name: str, value: float) -> None:
    with pytest.raises(FedsimError, match=f"{name} = "):
        Effort(**{name: value})


def test_precision_is_what_was_asked_for() -> None:
    utility = averaging_game(TEN, 2)
    right = vector(exact(TEN, utility))
    coarse = [gtg(TEN, utility, seed=seed, effort=Effort(precision=0.2)) for seed in range(10)]
    assert {one.stopped_by for one in coarse} == {"precision"}
    off = [np.linalg.norm(vector(one) - right) / np.linalg.norm(right - right.mean()) for one in coarse]
    assert np.median(off) < 0.2
    assert all(one.evaluations < gtg(TEN, utility, seed=i).evaluations for i, one in enumerate(coarse))


def test_half_of_the_evaluations_rank_ten_clients() -> None:
    """And come far closer than the mean over orders, published, does from as many and more evaluations."""
    ranks, errors, published = [], [], []
    for seed in range(10):
        utility = averaging_game(TEN, seed)
        right = vector(exact(TEN, utility))
        found = gtg(TEN, utility, seed=seed)
        assert found.evaluations <= 512
        other = published_gtg(TEN, utility, seed=seed, stopping=Stopping(truncation=0.001, least=100, most=200))
        assert other.evaluations > found.evaluations
        ranks.append(spearmanr(right, vector(found)).statistic)
        errors.append(np.linalg.norm(vector(found) - right))
        published.append(np.linalg.norm(vector(other) - right))
    assert np.median(ranks) >= 0.95
    assert np.mean(errors) < 0.6 * np.mean(published)

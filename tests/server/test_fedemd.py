"""FedEMD: distances against other implementations, and a Maverick that comes early and goes late."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from selecting import MAVERICK, maverick_profiles, play

from fedsim.errors import FedsimError
from fedsim.protocol import Profile
from server.selection import FedEMD, RoundOutcome
from server.selection.distances import Counts, distance, normalised

PROFILES = maverick_profiles()
COUNTS = np.random.default_rng(0).integers(0, 30, (6, 5)).astype(float)
LINE = np.abs(np.arange(5)[:, None] - np.arange(5)[None, :]).astype(float)


def far(name: str, ground: Counts | None = None, how: str = "mean1") -> Counts:
    """Distances of ``COUNTS`` from their sum."""
    made = distance(name, ground)  # type: ignore[arg-type]
    return made(normalised(COUNTS, how), normalised(COUNTS.sum(axis=0), how))  # type: ignore[arg-type]


def test_the_distances_agree_with_scipy() -> None:
    whole, classes = COUNTS.sum(axis=0), np.arange(5)
    scaled = COUNTS / COUNTS.mean(axis=1, keepdims=True)
    expected = {
        "l1": [2 * wasserstein_free(row, whole) for row in COUNTS],
        "wasserstein_sorted": [wasserstein_distance(row, whole / whole.mean()) for row in scaled],
        "wasserstein_classes": [wasserstein_distance(classes, classes, row, whole) for row in COUNTS],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(far(name), values, atol=1e-12)


def wasserstein_free(one: Counts, other: Counts) -> float:
    """Total variation, as one minus what two distributions have in common."""
    return 1 - float(np.minimum(one / one.sum(), other / other.sum()).sum())


def test_the_earth_movers_distance_has_its_special_cases() -> None:
    """On a line it is the 1-Wasserstein distance; with 1 between any two classes, half the L1 distance."""
    np.testing.assert_allclose(far("earth_mover", LINE), far("wasserstein_classes"), atol=1e-9)
    np.testing.assert_allclose(far("earth_mover"), far("l1") / 2, atol=1e-9)


def test_the_earth_movers_distance_is_an_assignment_of_single_examples() -> None:
    """With four examples each, the cheapest flow is the cheapest matching, for any ground metric."""
    draws = np.random.default_rng(1)
    points = draws.random((5, 2))
    ground = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    one, other = draws.integers(0, 5, 4), draws.integers(0, 5, 4)
    costs = ground[np.ix_(one, other)]
    expected = costs[linear_sum_assignment(costs)].mean()
    counts = [np.bincount(labels, minlength=5).astype(float) for labels in (one, other)]
    assert distance("earth_mover", ground)(counts[0][None], counts[1])[0] == pytest.approx(expected, abs=1e-9)


def test_the_authors_distance_cannot_tell_which_class_is_which() -> None:
    """A weakness of what the code published computes, which the others do not share."""
    shuffled = COUNTS[:, ::-1]
    whole = normalised(COUNTS.sum(axis=0))
    for name in ("l1", "wasserstein_sorted", "wasserstein_classes"):
        one, other = (distance(name)(normalised(c), whole) for c in (COUNTS, shuffled))  # type: ignore[arg-type]
        assert np.allclose(one, other) == (name == "wasserstein_sorted")


@pytest.mark.parametrize(
    ("given", "gaps"),
    [
        ({}, 1.295),
        ({"distance": "wasserstein_sorted", "normalisation": "reference_class", "alpha": 1.0}, 4.8),
    ],
)
def test_how_far_a_maverick_is(given: dict[str, object], gaps: float) -> None:
    """The gap between its distance from all and the others', as the layout reduce_1_plus has it."""
    selector = FedEMD(**given)  # type: ignore[arg-type]
    chances = selector.probabilities(selector.init(PROFILES), 1, PROFILES)
    assert np.log(chances[MAVERICK] / chances[0]) / selector.alpha == pytest.approx(gaps, abs=0.02)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"distance": "wasserstein_sorted", "normalisation": "reference_class", "alpha": 0.11, "beta": 0.001},
        {"minmax": True, "alpha": 0.7, "beta": 0.007},
    ],
)
def test_a_maverick_comes_early_and_goes_late(given: dict[str, object]) -> None:
    """Above uniform at the start, below it at the end; the code published has it the other way round."""
    _, choices, _ = play(FedEMD(**given), PROFILES, 5, 200)  # type: ignore[arg-type]
    chance = [choice.chances[MAVERICK] for choice in choices if choice.chances is not None]
    assert chance[0] > 1.5 / 50
    assert chance[-1] < 1 / 50
    below = [number for number, value in enumerate(chance, start=1) if value < 1 / 50]
    assert 60 < below[0] < 150


def test_the_course_of_its_chance() -> None:
    """The mean over many seeds follows the deterministic course in which everybody comes as often as expected."""
    runs = [play(FedEMD(), PROFILES, 5, 200, seed) for seed in range(25)]
    chances = np.array([[choice.chances[MAVERICK] for choice in choices] for _, choices, _ in runs])  # type: ignore[index]
    owner, other = (np.array(PROFILES[i].label_counts, dtype=float) for i in (MAVERICK, 0))
    everybody, seen, expected = owner + 49 * other, np.zeros(10), []

    def apart(one: Counts, whole: Counts) -> float:
        return float(np.abs(one / one.sum() - whole / whole.sum()).sum())

    for round in range(1, 201):
        score = 0.55 * (apart(owner, everybody) - apart(other, everybody))
        if round > 1:
            score -= 0.0055 * round * (apart(owner, seen) - apart(other, seen))
        expected.append(1 / (1 + 49 * np.exp(-score)))
        seen = seen + 5 * (expected[-1] * owner + (1 - expected[-1]) * other)
    assert expected[0] == pytest.approx(0.040, abs=0.0005)
    np.testing.assert_allclose(
        chances.mean(axis=0)[[0, 24, 49, 99, 149, 199]], np.take(expected, [0, 24, 49, 99, 149, 199]), atol=0.002
    )
    chosen = np.array([[MAVERICK in cohort for cohort in cohorts] for cohorts, _, _ in runs])
    assert chosen[:, :25].mean() == pytest.approx(0.18, abs=0.04)
    assert chosen[:, -25:].mean() == pytest.approx(0.05, abs=0.04)


def test_an_update_adds_what_was_selected() -> None:
    selector = FedEMD()
    candidates = [Profile(3, 4, (1, 3)), Profile(8, 2, (2, 0))]
    state = selector.init(candidates)
    assert state["seen"].tolist() == [0, 0]
    for _ in range(2):
        state = selector.update(state, RoundOutcome(1, candidates[:1]))
    assert state["seen"].tolist() == [2, 6]


def test_a_chance_by_hand() -> None:
    """Two classes, two clients: P = (2, 0) and (2/3, 4/3), all together (1.2, 0.8), seen (1, 1)."""
    selector = FedEMD(alpha=1.0, beta=0.5)
    candidates = [Profile(0, 2, (2, 0)), Profile(1, 3, (1, 2))]
    chances = selector.probabilities({"seen": np.array([5.0, 5.0])}, 3, candidates)
    scores = np.array([0.8 - 1.5 * 1.0, 8 / 15 - 1.5 / 3])
    np.testing.assert_allclose(chances, np.exp(scores) / np.exp(scores).sum())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"beta": -1.0}, "alpha or beta"),
        ({"ground": [[0.0]]}, "ground"),
        ({"distance": "earth_mover", "ground": [[0.0]]}, "10 x 10"),
        ({"normalisation": "reference_class", "reference_class": 1}, "mean1"),
        ({"normalisation": "reference_class", "reference_class": 10}, "no class"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(FedsimError, match=words):
        play(FedEMD(**given), PROFILES, 5, 1)  # type: ignore[arg-type]

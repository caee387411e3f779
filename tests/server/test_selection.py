"""Selection: cohorts without repeats, drawn with the chances the selector gives, from the seed alone."""

import numpy as np
import pytest
from scipy import stats

from fedsim import seeding
from fedsim.errors import FedsimError
from fedsim.protocol import Profile
from server.selection import SELECTORS, draw


def test_by_examples_is_in_proportion() -> None:
    selector = SELECTORS.create("by_examples")
    candidates = [Profile(client, size) for client, size in enumerate([10, 30, 60])]
    assert np.allclose(selector.probabilities(selector.init(candidates), 1, candidates), [0.1, 0.3, 0.6])


def test_no_client_twice_and_first_draws_follow_the_chances() -> None:
    chances = np.array([0.4, 0.3, 0.2, 0.1])
    counts = np.zeros(4)
    for number in range(10_000):
        cohort = draw(chances, 3, seeding.numpy_generator(0, "selection", "round", number))
        assert len(set(cohort.tolist())) == 3
        single = draw(chances, 1, seeding.numpy_generator(1, "selection", "round", number))
        counts[single[0]] += 1
    assert stats.chisquare(counts, chances * 10_000).pvalue > 1e-3


def test_the_draw_depends_on_seed_and_round_alone() -> None:
    chances = np.full(50, 1 / 50)
    cohorts = [draw(chances, 5, seeding.numpy_generator(7, "selection", "round", r)).tolist() for r in (1, 1, 2)]
    assert cohorts[0] == cohorts[1] != cohorts[2]


def test_candidates_without_a_chance_come_only_to_fill_the_cohort() -> None:
    chances = np.array([0.0, 1.0, 0.0, 1.0])
    for number in range(50):
        generator = seeding.numpy_generator(0, number)
        assert draw(chances, 2, generator).tolist() == [1, 3]
        assert {1, 3} < set(draw(chances, 3, generator).tolist())


def test_a_cohort_larger_than_the_federation_is_refused() -> None:
    with pytest.raises(FedsimError, match=r"clients_per_round = 5.*only 4"):
        draw(np.full(4, 0.25), 5, np.random.default_rng(0))

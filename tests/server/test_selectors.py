"""What holds of every selector: cohorts without repeats, chances that are kept, states that checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats
from selecting import maverick_profiles, play, pool_of, random_numbers

from fedsim import state as states
from fedsim.errors import FedsimError
from fedsim.protocol import Profile
from server.selection import SELECTORS, Choice, Choosing, Need, Selector, choose
from server.selection.needs import PRICES, prices
from server.selection.selector import State

PROFILES = maverick_profiles()[-20:]  # numbers from 30 on: a position is no client
OPEN = ["power_of_choice"]  # no closed form


@pytest.mark.parametrize("name", SELECTORS.names())
def test_no_client_twice_in_ten_thousand_draws(name: str) -> None:
    """Over all selectors that makes some hundred thousand seats; equal chances are where a search by value fails."""
    selector = SELECTORS.create(name)
    _, _, state = play(selector, PROFILES, 4, 30, told=random_numbers)
    clients = {profile.client for profile in PROFILES}
    for seed in range(10_000 // 10):
        for round in (1, 2, 7, 31, 40, 55, 80, 120, 160, 200):
            chosen = choose(selector, state, pool_of(PROFILES, 4, round, seed)).positions.tolist()
            assert len(set(chosen)) == 4
            assert {PROFILES[position].client for position in chosen} <= clients


@pytest.mark.parametrize("name", [name for name in SELECTORS.names() if name not in OPEN])
@pytest.mark.parametrize("round", [1, 31])
def test_frequencies_agree_with_the_chances_told(name: str, round: int) -> None:
    """With a single seat the chance told is the chance to be chosen (Pearson's chi-squared test)."""
    selector = SELECTORS.create(name)
    state = selector.init(PROFILES)
    if round > 1:
        _, _, state = play(selector, PROFILES, 4, 30, told=random_numbers)
    if name == "fedfast":  # its clusters are drawn in the first round, and chances are given these
        state = choose(selector, selector.init(PROFILES), pool_of(PROFILES, 1)).state
    counts, draws = np.zeros(len(PROFILES)), 2000
    chances = np.zeros(len(PROFILES))
    for seed in range(draws):
        choice = choose(selector, state, pool_of(PROFILES, 1, round, seed))
        assert choice.chances is not None
        counts[choice.positions[0]] += 1
        chances += choice.chances / draws
    possible = chances > 0
    assert counts[~possible].sum() == 0
    assert chances.sum() == pytest.approx(1)
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], chances[possible] * draws).pvalue > 1e-4


@pytest.mark.parametrize("name", SELECTORS.names())
def test_a_state_survives_the_disk(name: str, tmp_path: Path) -> None:
    """Twenty rounds in one go, or ten, a checkpoint, and ten more: the same cohorts and the same state."""
    selector = SELECTORS.create(name)
    whole, _, end = play(selector, PROFILES, 4, 20, told=random_numbers)
    first, _, state = play(selector, PROFILES, 4, 10, told=random_numbers)
    states.save(state, tmp_path / "state")
    loaded = states.load(tmp_path / "state")
    assert plain(loaded) == plain(state)
    rest, _, resumed = play(selector, PROFILES, 4, 20, told=random_numbers, state=loaded, first=11)
    assert first + rest == whole
    assert plain(resumed) == plain(end)


@pytest.mark.parametrize("name", SELECTORS.names())
def test_choosing_and_updating_change_nothing_in_place(name: str) -> None:
    selector = SELECTORS.create(name)
    _, _, state = play(selector, PROFILES, 4, 12, told=random_numbers)
    before = repr(plain(state))
    play(selector, PROFILES, 4, 25, told=random_numbers, state=state, first=13)
    assert repr(plain(state)) == before


def test_every_need_has_a_price_and_is_asked_by_somebody() -> None:
    asked = set().union(*(SELECTORS.create(name).needs for name in SELECTORS.names()))
    assert set(PRICES) == set(get_args(Need))
    assert asked | {"losses"} == set(PRICES)
    assert [need for need, _ in prices({"values", "examples", "unheard of"})] == ["examples", "values"]


def test_a_cohort_that_is_none_is_refused() -> None:
    class Twice:
        needs = frozenset[Need]()

        def init(self, candidates: object) -> State:
            return {}

        def choose(self, state: State, pool: object) -> Choice:
            return Choice(np.array([1, 1, 2]), None, state)

        def update(self, state: State, outcome: object) -> State:
            return state

    assert isinstance(Twice(), Choosing)
    with pytest.raises(FedsimError, match=r"Twice chose the positions \[1, 1, 2\]"):
        choose(Twice(), {}, pool_of(PROFILES, 3))


def test_a_histogram_kept_back_is_an_error_that_names_the_client() -> None:
    secret = [*PROFILES[:3], Profile(7, 100)]
    for name in ("fedemd", "fedfast"):
        selector: Selector | Choosing = SELECTORS.create(name)
        with pytest.raises(FedsimError, match="client 7 does not share"):
            choose(selector, selector.init(secret), pool_of(secret, 2))


def plain(state: object) -> object:
    """A state to compare: arrays as lists."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state

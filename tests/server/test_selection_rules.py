"""Each selector's rule against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from selecting import maverick_profiles, play, pool_of

from fedsim.errors import FedsimError
from fedsim.protocol import Profile
from server.selection import Answer, Oort, RoundOutcome, ShapleyBased, choose
from server.selection.afl import ActiveFL
from server.selection.fedfast import FedFast
from server.selection.greedyfed import GreedyFed
from server.selection.power_of_choice import PowerOfChoice
from server.selection.s_fedavg import SFedAvg
from server.selection.tifl import TiFL, reweighted

FOUR = [Profile(client, size, duration=float(client)) for client, size in ((3, 10), (5, 20), (8, 30), (9, 40))]


def outcome(round: int = 1, clients: tuple[int, ...] = (), **told: object) -> RoundOutcome:
    return RoundOutcome(round, [profile for profile in FOUR if profile.client in clients], **told)  # type: ignore[arg-type]


def test_shapley_keeps_an_exponential_mean_and_draws_above_the_lowest() -> None:
    selector = ShapleyBased(memory=0.5, floor=0.1, warm_up=2)
    state = selector.init(FOUR)
    assert selector.probabilities(state, 2, FOUR).tolist() == [0.25] * 4
    state = selector.update(state, outcome(1, values={3: 0.4, 5: -0.2}))
    state = selector.update(state, outcome(2, values={3: 0.2}))
    assert state["means"] == pytest.approx({3: 0.3, 5: -0.2})
    # Clients 8 and 9 count for the mean of 0.3 and -0.2.
    expected = np.array([0.6, 0.1, 0.35, 0.35])
    np.testing.assert_allclose(selector.probabilities(state, 3, FOUR), expected / expected.sum())


def test_s_fedavg_moves_the_scores_of_those_selected_alone() -> None:
    selector = SFedAvg(temperature=0.1)
    state = selector.update(selector.init(FOUR), outcome(clients=(5, 8), values={5: 1.0, 8: -1.0}))
    assert state["scores"] == pytest.approx({3: 0.25, 5: 0.4375, 8: -0.0625, 9: 0.25})
    powers = np.exp(np.array([2.5, 4.375, -0.625, 2.5]))
    np.testing.assert_allclose(selector.probabilities(state, 2, FOUR), powers / powers.sum())


def test_the_three_by_value_find_the_client_that_adds_something() -> None:
    """A game in which client 30 always adds 0.1 and nobody else anything."""
    profiles = maverick_profiles()[-20:]

    def told(done: RoundOutcome) -> dict[str, object]:
        return {"values": {profile.client: 0.1 * (profile.client == 30) for profile in done.selected}}

    for selector in (ShapleyBased(), SFedAvg(), GreedyFed()):
        cohorts, choices, _ = play(selector, profiles, 4, 30, told=told)
        assert any(30 in cohort for cohort in cohorts[:20])
        last = choices[-1].chances
        assert last is not None
        assert last[0] == last.max() > np.delete(last, 0).max()


@pytest.mark.parametrize("size", [3, 4, 7])
def test_greedyfed_visits_everybody_once_first(size: int) -> None:
    profiles = maverick_profiles()[-20:]
    cohorts, _, _ = play(GreedyFed(), profiles, size, -(-20 // size))
    flat = [client for cohort in cohorts for client in cohort]
    assert set(flat) == {profile.client for profile in profiles}
    assert len(flat[: 20 // size * size]) == len(set(flat[: 20 // size * size]))


def test_greedyfed_takes_the_top_by_mean_and_bound() -> None:
    selector = GreedyFed()
    state = selector.init(FOUR)
    for round, values in enumerate(({3: 0.3, 5: 0.1}, {8: 0.2, 9: 0.2}, {3: 0.1, 8: 0.2}), start=1):
        state = selector.update(state, outcome(round, tuple(values), values=values))
    assert state["means"] == pytest.approx({3: 0.2, 5: 0.1, 8: 0.2, 9: 0.2})
    assert state["selected"] == {3: 2, 5: 1, 8: 2, 9: 1}
    state = {**state, "means": {3: 0.3, 5: 0.1, 8: 0.2, 9: 0.2}}
    chances = choose(selector, state, pool_of(FOUR, 2, 4)).chances
    assert chances is not None
    np.testing.assert_allclose(chances, [0.5, 0, 0.25, 0.25])  # one seat sure, two clients equal for the other
    # With b = 1 in round 4: V + sqrt(ln 5 / N) = 1.20, 1.37, 1.10, 1.47.
    bound = choose(
        GreedyFed(exploration=1.0), {**state, "means": {3: 0.3, 5: 0.1, 8: 0.2, 9: 0.2}}, pool_of(FOUR, 2, 4)
    )
    assert bound.positions.tolist() == [1, 3]
    exponential = GreedyFed(memory=0.9)
    state = exponential.update(exponential.init(FOUR), outcome(values={3: 1.0}))
    assert exponential.update(state, outcome(values={3: 0.0}))["means"] == pytest.approx({3: 0.9})


def test_power_of_choice_takes_the_highest_losses_of_those_it_asked() -> None:
    asked: list[list[int]] = []

    def ask(clients: object) -> dict[int, Answer]:
        asked.append(list(clients))  # type: ignore[call-overload]
        return {client: Answer(float(client), 0.5) for client in asked[-1] if client != 9}  # 9 does not answer

    everybody = choose(PowerOfChoice(candidates=4), {"losses": {}}, pool_of(FOUR, 2, ask=ask))
    assert [FOUR[i].client for i in everybody.positions] == [5, 8]
    for seed in range(20):
        chosen = choose(PowerOfChoice(candidates=3), {"losses": {}}, pool_of(FOUR, 2, seed=seed, ask=ask))
        answering = sorted(client for client in asked[-1] if client != 9)
        assert len(asked[-1]) == 3
        assert {FOUR[i].client for i in chosen.positions} == set(answering[-2:])
    remembering = PowerOfChoice(candidates=4, loss="last_seen")
    state = remembering.update({"losses": {3: 2.0}}, outcome(losses={5: 1.0, 8: 3.0}))
    chosen = choose(remembering, state, pool_of(FOUR, 2))
    assert [FOUR[i].client for i in chosen.positions] == [8, 9]  # 9 was never seen
    with pytest.raises(FedsimError, match=r"candidates = 5.*from 2.*to 4"):
        choose(PowerOfChoice(candidates=5), {"losses": {}}, pool_of(FOUR, 2))


def test_power_of_choice_of_as_many_candidates_as_seats_is_sampling_by_size() -> None:
    counts = np.zeros(4)
    for seed in range(4000):
        counts[choose(PowerOfChoice(candidates=1), {"losses": {}}, pool_of(FOUR, 1, seed=seed)).positions[0]] += 1
    np.testing.assert_allclose(counts / 4000, [0.1, 0.2, 0.3, 0.4], atol=0.03)  # four standard deviations


def test_afl_values_losses_by_the_root_of_the_size() -> None:
    selector = ActiveFL(drop=0.5, sharpness=0.2, random=0.0)
    losses = {3: 1.0, 5: 2.0, 8: 1.0, 9: 0.5}
    state = selector.update(selector.init(FOUR), outcome(clients=(3, 5, 8, 9), losses=losses))
    assert state["valuations"] == pytest.approx({3: 10**0.5, 5: 2 * 20**0.5, 8: 30**0.5, 9: 0.5 * 40**0.5})
    chances = choose(selector, state, pool_of(FOUR, 1)).chances
    assert chances is not None
    better = np.exp(0.2 * np.array([2 * 20**0.5, 30**0.5]))
    np.testing.assert_allclose(chances, [0, *(better / better.sum()), 0])
    uniform = choose(ActiveFL(random=1.0), state, pool_of(FOUR, 1)).chances
    assert uniform is not None
    np.testing.assert_allclose(uniform, 0.25)
    with pytest.raises(FedsimError, match="leaves 1 of 4 clients, of whom 2"):
        choose(ActiveFL(drop=0.75, random=0.0), state, pool_of(FOUR, 2))


def test_fedfast_takes_one_of_each_group_and_a_large_maverick_always_by_raw_counts() -> None:
    kinds = [(30, 0, 0), (0, 30, 0), (0, 0, 30)]
    profiles = [Profile(client, 30, kinds[client % 3]) for client in range(12)]
    for cohort in play(FedFast(), profiles, 3, 20)[0]:
        assert {client % 3 for client in cohort} == {0, 1, 2}
    raw = play(FedFast(normalised=False), maverick_profiles(), 5, 30)[0]
    assert all(49 in cohort for cohort in raw)
    alike = [Profile(client, 10, (5, 5)) for client in range(8)]
    seen = {client for cohort in play(FedFast(), alike, 3, 40)[0] for client in cohort}
    assert seen == set(range(8))


def test_tifl_makes_tiers_by_speed_and_prefers_the_worst() -> None:
    assert reweighted([0.5, 0.4, 0.3, 0.2, 0.1], [1] * 5) == pytest.approx([1 / 15, 2 / 15, 3 / 15, 4 / 15, 5 / 15])
    assert reweighted([0.5, 0.4, 0.3], [1, 0, 1]) == pytest.approx([1 / 3, 0, 2 / 3])
    profiles = [Profile(client, 1, duration=float(100 - client)) for client in range(10)]
    selector = TiFL(tiers=5, credits=3, interval=4)
    state = selector.init(profiles)
    assert state["tiers"] == [[9, 8], [7, 6], [5, 4], [3, 2], [1, 0]]
    accuracies = lambda clients: {client: Answer(1.0, client / 10) for client in clients}
    tested = choose(selector, state, pool_of(profiles, 2, 5, ask=accuracies))
    assert tested.state["chances"] == pytest.approx([1 / 15, 2 / 15, 3 / 15, 4 / 15, 5 / 15])
    assert choose(selector, state, pool_of(profiles, 2, 4, ask=accuracies)).state["chances"] == [0.2] * 5
    for seed in range(5):
        cohorts, choices, _ = play(selector, profiles, 2, 15, seed)
        pairs = [tuple(sorted(cohort)) for cohort in cohorts]
        assert {pairs.count(pair) for pair in set(pairs)} == {3}  # 15 rounds use up all credits, three of each tier
        assert choices[-1].state["credits"] == [0] * 5
    with pytest.raises(FedsimError, match="tiers of 2 clients"):
        choose(selector, state, pool_of(profiles, 3))


def test_oort_scores_utility_staleness_and_speed() -> None:
    """Rounds 1 and 2 are known of clients 3, 5 and 8; round 4 exploits one seat of two, without clipping."""
    selector = Oort(exploration=0.5, decay=1.0, clip=1.0, cut_off=0.0, percentile=50.0, penalty=2.0)
    state = selector.init(FOUR)
    told = ((1, {3: 4.0, 5: 1.0}, {3: 1.0, 5: 2.0}), (2, {8: 1.0}, {8: 8.0}))
    for round, squares, durations in told:
        state = selector.update(state, outcome(round, tuple(squares), square_losses=squares, durations=durations))
    assert state["utilities"] == {3: 20.0, 5: 20.0, 8: 30.0}
    assert state["last"] == {3: 1, 5: 1, 8: 2}
    chances = choose(selector, state, pool_of(FOUR, 2, 4)).chances
    low, log = 0.999 * 20, np.log(4)
    # Durations 1, 2, 8 and, as expected of the client that is new, 9: the preferred one is 8.
    scores = np.array([(20 - low) / (30 - low) + (0.1 * log) ** 0.5] * 2 + [1 + (0.1 * log / 2) ** 0.5])
    assert chances is not None
    np.testing.assert_allclose(chances, [*(0.5 * scores / scores.sum()), 0.5])
    quick = Oort(exploration=0.5, decay=1.0, clip=1.0, cut_off=0.0, percentile=25.0, penalty=2.0)
    slowed = choose(quick, {**state, "percentile": 25.0}, pool_of(FOUR, 2, 4)).chances  # the preferred one is 2
    scores[2] *= (2 / 8) ** 2
    assert slowed is not None
    np.testing.assert_allclose(slowed, [*(0.5 * scores / scores.sum()), 0.5])


def test_oort_explores_less_and_less_and_cuts_off_low_scores() -> None:
    profiles = maverick_profiles()[-20:]
    selector = Oort(percentile=100.0)
    told = lambda done: {"square_losses": {profile.client: 1.0 for profile in done.selected}}
    cohorts, _, _ = play(selector, profiles, 5, 20, told=told)
    known: set[int] = set()
    for round, cohort in enumerate(cohorts, start=1):
        new = len(set(cohort) - known)
        epsilon = max(0.9 * 0.95 ** (round - 1), 0.2)
        exploited = min(int(5 * (1 - epsilon) + 1e-9), len(known))
        assert new == min(5 - exploited, 20 - len(known))
        known |= set(cohort)
    state = {
        **selector.init(FOUR),
        "utilities": {3: 1.0, 5: 100.0, 8: 99.0, 9: 98.0},
        "last": dict.fromkeys((3, 5, 8, 9), 9),
    }
    chances = choose(selector, state, pool_of(FOUR, 2, 10)).chances
    assert chances is not None
    assert chances[0] == 0
    assert chances[1:].min() > 0


def test_oorts_pacer_relaxes_when_utility_is_flat_and_tightens_when_it_jumps() -> None:
    selector = Oort(pacer_step=2, percentile=20.0, pacer_delta=5.0)

    def after(squares: list[float]) -> float:
        state = selector.init(FOUR)
        for round, square in enumerate(squares, start=1):
            state = selector.update(state, outcome(round, (3,), square_losses={3: square}))
        return float(state["percentile"])

    assert after([1.0, 1.0, 1.0]) == 20
    assert after([1.0, 1.0, 1.0, 1.0]) == 25
    assert after([1.0, 1.0, 4.0, 4.0]) == 20
    assert after([1.0, 1.0, 49.0, 49.0]) == 15

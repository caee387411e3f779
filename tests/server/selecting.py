"""What the tests of selectors share: a federation with a Maverick, pools, and rounds without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedsim import seeding
from fedsim.protocol import Profile
from server.selection import Answer, Choice, Choosing, Pool, RoundOutcome, Selector, choose
from server.selection.selector import State

MAVERICK = 49


def maverick_profiles(clients: int = 50) -> list[Profile]:
    """Layout reduce_1_plus of the study on ten classes of 6000: the last client has all of class 1."""
    others = tuple(0 if label == 1 else 120 for label in range(10))
    owner = tuple(6000 if label == 1 else 120 for label in range(10))
    counts = [others] * (clients - 1) + [owner]
    return [Profile(client, sum(row), row, duration=1.0 + client) for client, row in enumerate(counts)]


def pool_of(
    candidates: Sequence[Profile],
    size: int,
    round: int = 1,
    seed: int = 0,
    ask: Callable[[Sequence[int]], Mapping[int, Answer]] = lambda clients: {c: Answer(1.0, 0.5) for c in clients},
) -> Pool:
    return Pool(round, candidates, size, seeding.numpy_generator(seed, "selection", "round", round), ask)


def play(
    selector: Selector | Choosing,
    candidates: Sequence[Profile],
    size: int,
    rounds: int,
    seed: int = 0,
    told: Callable[[RoundOutcome], dict[str, Any]] = lambda _: {},
    state: State | None = None,
    first: int = 1,
) -> tuple[list[list[int]], list[Choice], State]:
    """Rounds in which nothing is trained: cohorts (of clients), choices, and the state at the end."""
    state = selector.init(candidates) if state is None else state
    cohorts, choices = [], []
    for number in range(first, rounds + 1):
        choice = choose(selector, state, pool_of(candidates, size, number, seed))
        cohort = [candidates[position] for position in choice.positions]
        outcome = RoundOutcome(number, cohort)
        state = selector.update(choice.state, replace(outcome, **told(outcome)))
        cohorts.append([profile.client for profile in cohort])
        choices.append(choice)
    return cohorts, choices, state


def random_numbers(outcome: RoundOutcome) -> dict[str, Any]:
    """Losses, durations and values that a seed and the round decide."""
    draws = np.random.default_rng(outcome.round)

    def each() -> dict[int, float]:
        return {profile.client: float(draws.uniform(0.1, 2.0)) for profile in outcome.selected}

    return {"losses": each(), "square_losses": each(), "durations": each(), "values": each()}

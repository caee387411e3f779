"""Selection by contribution, as the Maverick study compares FedEMD with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Need, RoundOutcome, State


@SELECTORS.register("shapley")
class ShapleyBased:
    """In proportion to the mean Shapley value so far (SVB in Huang et al., PAKDD 2023, arXiv:2106.10734).

    The study does not publish its rule, and its code draws with constants in place of values. The rule here: with
    V_i the exponential mean of a client's values, and the mean over the others' for a client without any,

        p_i proportional to V_i - min_j V_j + floor

    after some rounds of uniform selection, which give the first values.

    Args:
        memory: share of V_i that stays when a new value comes.
        floor: what a client of the lowest mean weighs, in units of value.
        warm_up: rounds of uniform selection.
    """

    needs: frozenset[Need] = frozenset({"values", "updates", "validation"})

    def __init__(self, memory: float = 0.5, floor: float = 1e-3, warm_up: int = 2) -> None:
        if not 0 <= memory < 1:
            raise invalid("memory", memory, "must be at least 0 and below 1", "Correct it")
        if floor <= 0:
            raise invalid("floor", floor, "must be above 0, or the client valued least would never come", "Raise it")
        self.memory, self.floor, self.warm_up = memory, floor, warm_up

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``means``: the exponential mean of the values of each client that has one."""
        return {"means": {}}

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:
        means: Mapping[int, float] = state["means"]
        if round <= self.warm_up or not means:
            return np.full(len(candidates), 1 / len(candidates))
        unknown = sum(means.values()) / len(means)
        values = np.array([means.get(profile.client, unknown) for profile in candidates])
        weights = values - values.min() + self.floor
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def update(self, state: State, outcome: RoundOutcome) -> State:
        means = dict(state["means"])
        for client, value in outcome.values.items():
            means[client] = self.memory * means[client] + (1 - self.memory) * value if client in means else value
        return {"means": means}

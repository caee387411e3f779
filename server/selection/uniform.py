"""Uniform selection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Need, RoundOutcome, State


@SELECTORS.register("uniform")
class Uniform:
    """Every client with the same chance (McMahan et al., AISTATS 2017)."""

    needs: frozenset[Need] = frozenset()

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        return {}

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:  # noqa: ARG002
        return np.full(len(candidates), 1 / len(candidates))

    def update(self, state: State, outcome: RoundOutcome) -> State:  # noqa: ARG002
        return state

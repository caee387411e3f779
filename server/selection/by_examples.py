"""Selection in proportion to the size of the shard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Need, RoundOutcome, State


@SELECTORS.register("by_examples")
class ByExamples:
    """Each client in proportion to the number of examples it says it has (Li et al., ICLR 2020, scheme I)."""

    needs: frozenset[Need] = frozenset({"examples"})

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        return {}

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:  # noqa: ARG002
        sizes = np.array([profile.examples for profile in candidates], dtype=np.float64)
        shares: NDArray[np.float64] = sizes / sizes.sum()
        return shares

    def update(self, state: State, outcome: RoundOutcome) -> State:  # noqa: ARG002
        return state

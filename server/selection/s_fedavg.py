"""S-FedAvg: a score for each client from its Shapley values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Need, RoundOutcome, State, softmax


@SELECTORS.register("s_fedavg")
class SFedAvg:
    """Softmax of scores that follow Shapley values (Nagalapatti, Narayanam, AAAI 2021, arXiv:2110.12257).

    Every score phi_k starts at 1 / N; of the clients selected, with value s_k in the round,

        phi_k <- retain phi_k + gain s_k           p_k = softmax_k(phi_k / temperature)

    Args:
        retain: share of the old score that stays (alpha in the paper).
        gain: weight of the new value (beta).
        temperature: 1 in the paper, where scores of at most 0.1 leave the softmax nearly flat; smaller is sharper.
    """

    needs: frozenset[Need] = frozenset({"values", "updates", "validation"})

    def __init__(self, retain: float = 0.75, gain: float = 0.25, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise invalid("temperature", temperature, "must be above 0", "Raise it")
        self.retain, self.gain, self.temperature = retain, gain, temperature

    def init(self, candidates: Sequence[Profile]) -> State:
        """``scores``: phi of each client."""
        return {"scores": {profile.client: 1 / len(candidates) for profile in candidates}}

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:  # noqa: ARG002
        scores: Mapping[int, float] = state["scores"]
        return softmax(np.array([scores[profile.client] for profile in candidates]) / self.temperature)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        scores: Mapping[int, float] = state["scores"]
        fresh = {k: self.retain * scores[k] + self.gain * value for k, value in outcome.values.items() if k in scores}
        return {"scores": {**scores, **fresh}}

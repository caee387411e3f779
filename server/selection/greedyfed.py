"""GreedyFed: everybody once, then always those of the highest value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Choice, Need, Pool, RoundOutcome, State


@SELECTORS.register("greedyfed")
class GreedyFed:
    """The clients of the highest mean Shapley value, after a round-robin (Singhal et al., arXiv:2312.09108).

    Clients are first visited in the order of their numbers, the last group filled up by chance. Then the cohort
    is the top of V_k + b sqrt(ln(t + 1) / N_k), where V_k is the mean of a client's values, N_k how often it was
    selected and t the round; chance decides among equals.

    Args:
        memory: if given, V_k is an exponential mean that keeps this share; otherwise the mean over all rounds.
        exploration: b, of the variant with an upper confidence bound; 0 leaves the plain one.
    """

    needs: frozenset[Need] = frozenset({"values", "updates", "validation"})

    def __init__(self, memory: float | None = None, exploration: float = 0.0) -> None:
        if memory is not None and not 0 <= memory < 1:
            raise invalid("memory", memory, "must be at least 0 and below 1", "Correct it")
        if exploration < 0:
            raise invalid("exploration", exploration, "must not be negative", "Correct it")
        self.memory, self.exploration = memory, exploration

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``means`` and ``valued``: V_k and the number of values in it; ``selected``: N_k."""
        return {"means": {}, "valued": {}, "selected": {}}

    def choose(self, state: State, pool: Pool) -> Choice:
        selected: Mapping[int, int] = state["selected"]
        times = np.array([selected.get(profile.client, 0) for profile in pool.candidates])
        new = np.flatnonzero(times == 0)
        if len(new):
            sure, open_to = new[: pool.size], np.flatnonzero(times > 0)
        else:
            means: Mapping[int, float] = state["means"]  # a client that never answered has no value: 0
            scores = np.array([means.get(profile.client, 0.0) for profile in pool.candidates])
            scores = scores + self.exploration * np.sqrt(np.log(pool.round + 1) / times)
            last = np.sort(scores)[-pool.size]
            sure, open_to = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
        seats_left = pool.size - len(sure)
        others = pool.generator.choice(open_to, seats_left, replace=False)
        chances = np.zeros(len(times))
        chances[sure] = 1 / pool.size
        if seats_left:
            chances[open_to] = seats_left / len(open_to) / pool.size
        return Choice(np.concatenate([sure, others]), chances, state)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        means, valued, selected = dict(state["means"]), dict(state["valued"]), dict(state["selected"])
        for profile in outcome.selected:
            selected[profile.client] = selected.get(profile.client, 0) + 1
        for k, value in outcome.values.items():
            valued[k] = valued.get(k, 0) + 1
            step = 1 / valued[k] if self.memory is None or valued[k] == 1 else 1 - self.memory
            means[k] = means.get(k, 0.0) + step * (value - means.get(k, 0.0))
        return {"means": means, "valued": valued, "selected": selected}

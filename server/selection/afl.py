"""Active federated learning: mostly clients whose data the model fits badly, weighed by how much data that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Choice, Need, Pool, RoundOutcome, State, draw, fill, largest, softmax


@SELECTORS.register("afl")
class ActiveFL:
    """Softmax over valuations v = sqrt(n) times the loss (Goetz et al., arXiv:1909.12641; not Agnostic FL).

    1. The share ``drop`` of the clients, those of the smallest v, gets no chance.
    2. Of the others a share ``1 - random`` of the cohort is drawn, in proportion to exp(sharpness v).
    3. The rest of the cohort is drawn uniformly from everybody else.

    v is known from when a client was last selected; one that never was is taken for as valuable as the best known,
    which the paper leaves open.

    Args:
        drop: alpha_1 in the paper.
        sharpness: alpha_2.
        random: alpha_3; 1 is uniform selection.
    """

    needs: frozenset[Need] = frozenset({"examples", "losses"})

    def __init__(self, drop: float = 0.75, sharpness: float = 0.01, random: float = 0.1) -> None:
        if not 0 <= drop < 1:
            raise invalid("drop", drop, "must be at least 0 and below 1", "Correct it")
        if not 0 <= random <= 1:
            raise invalid("random", random, "must be from 0 to 1", "Correct it")
        self.drop, self.sharpness, self.random = drop, sharpness, random

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``valuations``: v of each client that was ever selected."""
        return {"valuations": {}}

    def choose(self, state: State, pool: Pool) -> Choice:
        number = len(pool.candidates)
        kept, drawn = number - int(self.drop * number), int(np.floor((1 - self.random) * pool.size + 1e-9))
        if kept < drawn:
            raise invalid(
                "selection.drop",
                self.drop,
                f"leaves {kept} of {number} clients, of whom {drawn} shall be drawn",
                "Lower it, or raise selection.random",
            )
        known: Mapping[int, float] = state["valuations"]
        best = max(known.values(), default=0.0)
        values = np.array([known.get(profile.client, best) for profile in pool.candidates])
        able = largest(values, kept, pool.generator)
        weights = np.zeros(number)
        weights[able] = softmax(self.sharpness * values[able])
        chosen = draw(weights, drawn, pool.generator)
        chances = (drawn * weights + (pool.size - drawn) / number) / pool.size
        return Choice(fill(chosen, number, pool.size, pool.generator), chances, state)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        sizes = {profile.client: profile.examples for profile in outcome.selected}
        fresh = {client: float(np.sqrt(sizes[client])) * loss for client, loss in outcome.losses.items()}
        return {"valuations": {**state["valuations"], **fresh}}

"""Power-of-Choice: of some clients drawn by size, those of the highest loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Choice, Need, Pool, RoundOutcome, State, draw, largest


@SELECTORS.register("power_of_choice")
class PowerOfChoice:
    """The highest losses among random candidates (Cho, Wang, Joshi, AISTATS 2022, arXiv:2010.01243).

    1. Draw d candidates without replacement, in proportion to their numbers of examples.
    2. Ask them for the mean loss of the current global model on their data.
    3. The cohort is those of the largest loss. A candidate that does not answer comes last.

    Args:
        candidates: d, from the size of the cohort (sampling by size) to the number of clients (top losses).
        loss: ``current`` asks, which is a round trip of its own (pow-d); ``last_seen`` takes the training loss of when
            a client was last selected, and takes clients first that never were (rpow-d).
    """

    def __init__(self, candidates: int = 10, loss: Literal["current", "last_seen"] = "current") -> None:
        if candidates < 1:
            raise invalid("candidates", candidates, "must be 1 or more", "Correct it")
        self.candidates, self.loss = candidates, loss
        self.needs: frozenset[Need] = frozenset(
            {"examples", "candidate_losses"} if loss == "current" else {"examples", "losses"}
        )

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``losses``: the last training loss of each client that was selected, for ``last_seen``."""
        return {"losses": {}}

    def choose(self, state: State, pool: Pool) -> Choice:
        if not pool.size <= self.candidates <= len(pool.candidates):
            raise invalid(
                "selection.candidates",
                self.candidates,
                f"must be from {pool.size}, the clients of a round, to {len(pool.candidates)}, all clients",
                "Correct it",
            )
        sizes = np.array([profile.examples for profile in pool.candidates], dtype=np.float64)
        drawn = draw(sizes / sizes.sum(), self.candidates, pool.generator)
        clients = [pool.candidates[position].client for position in drawn]
        if self.loss == "current":
            told = pool.ask(clients)
            losses = [told[client].loss if client in told else -np.inf for client in clients]
        else:
            seen: Mapping[int, float] = state["losses"]
            losses = [seen.get(client, np.inf) for client in clients]
        return Choice(drawn[largest(np.array(losses), pool.size, pool.generator)], None, state)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        return {"losses": {**state["losses"], **outcome.losses}} if self.loss == "last_seen" else state

"""TiFL: clients in tiers of like speed, one tier a round, more often those that the model fits badly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Answer, Choice, Need, Pool, RoundOutcome, State


@SELECTORS.register("tifl")
class TiFL:
    """A tier of like latency, adaptively, and uniform in it (Chai et al., HPDC 2020, arXiv:2001.09249).

    Clients are sorted by the duration they expect into tiers of equal size. Each round a tier is drawn among those
    with credit, which costs it one; the cohort is uniform in the tier. Every few rounds the global model is tested
    on the data of all clients: of the n tiers with credit the k-th worst, from k = 0, then has the chance
    (n - k) / (n (n + 1) / 2). If no tier has credit left, all get theirs back.

    Args:
        tiers: how many; the smallest must be able to fill a cohort.
        credits: of each tier; the paper's are the number of rounds over that of tiers, rounded up.
        interval: rounds between tests.
    """

    needs: frozenset[Need] = frozenset({"durations", "accuracies"})

    def __init__(self, tiers: int = 5, credits: int = 40, interval: int = 10) -> None:
        for name, value in (("tiers", tiers), ("credits", credits), ("interval", interval)):
            if value < 1:
                raise invalid(name, value, "must be 1 or more", "Correct it")
        self.tiers, self.credits, self.interval = tiers, credits, interval

    def init(self, candidates: Sequence[Profile]) -> State:
        """``tiers``: their clients, fastest first; ``credits`` and ``chances`` of each.

        Raises:
            FedsimError: a client says nothing of how long it takes.
        """
        if any(profile.duration is None for profile in candidates):
            raise FedsimError("the selector tifl needs durations, and clients do not tell theirs.")
        fastest = sorted(candidates, key=lambda profile: (profile.duration, profile.client))
        tiers = [[int(client) for client in tier] for tier in np.array_split([p.client for p in fastest], self.tiers)]
        return {"tiers": tiers, "credits": [self.credits] * self.tiers, "chances": [1 / self.tiers] * self.tiers}

    def choose(self, state: State, pool: Pool) -> Choice:
        tiers: list[list[int]] = state["tiers"]
        credits = list(state["credits"]) if any(state["credits"]) else [self.credits] * self.tiers
        chances = list(state["chances"])
        smallest = min(len(tier) for tier in tiers)
        if smallest < pool.size:
            raise invalid(
                "selection.tiers",
                self.tiers,
                f"makes tiers of {smallest} clients, fewer than the {pool.size} of a round",
                "Make fewer tiers, or smaller cohorts",
            )
        if pool.round > 1 and (pool.round - 1) % self.interval == 0:
            told = pool.ask([profile.client for profile in pool.candidates])
            chances = reweighted([_mean(tier, told) for tier in tiers], credits)
        able = np.array(chances) * (np.array(credits) > 0)
        if able.sum() == 0:  # who has credit had none when the chances were made
            able = np.array(credits) > 0
        able = able / able.sum()
        tier = int(pool.generator.choice(self.tiers, p=able))
        credits[tier] -= 1
        places = {profile.client: position for position, profile in enumerate(pool.candidates)}
        members = np.array([places[client] for client in tiers[tier]])
        share = {client: able[number] / len(clients) for number, clients in enumerate(tiers) for client in clients}
        return Choice(
            pool.generator.choice(members, pool.size, replace=False),
            np.array([share[profile.client] for profile in pool.candidates]),
            {"tiers": tiers, "credits": credits, "chances": chances},
        )

    def update(self, state: State, outcome: RoundOutcome) -> State:  # noqa: ARG002
        return state


def reweighted(accuracies: Sequence[float], credits: Sequence[int]) -> list[float]:
    """Chances of tiers, the least accurate first; 0 without credit.

    >>> reweighted([0.9, 0.5, 0.7], [1, 1, 1])
    [0.16666666666666666, 0.5, 0.3333333333333333]
    """
    ranked = sorted((tier for tier, left in enumerate(credits) if left > 0), key=lambda tier: (accuracies[tier], tier))
    number = len(ranked)
    chances = [0.0] * len(credits)
    for k, tier in enumerate(ranked):
        chances[tier] = (number - k) / (number * (number + 1) / 2)
    return chances


def _mean(tier: Sequence[int], told: Mapping[int, Answer]) -> float:
    """Accuracy of a tier, over those who answered; 1 if nobody did, so that a silent tier is not favoured."""
    found = [told[client].accuracy for client in tier if client in told]
    return sum(found) / len(found) if found else 1.0

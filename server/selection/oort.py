"""Oort: clients of high loss that are not slow, and some that are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Profile
from server.selection.selector import SELECTORS, Choice, Need, Pool, RoundOutcome, State, draw, largest

Vector = NDArray[np.float64]


@SELECTORS.register("oort")
@dataclass(frozen=True)
class Oort:
    """Statistical times system utility, with exploration (Lai et al., OSDI 2021, arXiv:2010.06081; SymbioticLab/Oort).

    The utility of a client is U = n sqrt(mean of the squared loss of its examples), from when it was last selected in
    round L. In round t, with U clipped at a quantile and stretched to [0, 1] over the clients that have one,

        s = (U - 0.999 min U) / (max U - 0.999 min U) + sqrt(0.1 ln t / L)
        s <- s (T / duration)^penalty   where the client takes longer than T, a percentile of all durations

    Of the cohort of m, k = floor(m (1 - epsilon)) are exploited: drawn in proportion to s among those whose s is at
    least ``cut_off`` times that of rank k (counted from 0). The others are new: drawn in proportion to their reward
    (n, with the same penalty) among the ``window`` (m - k) of the highest one. Epsilon falls every round. The pacer
    relaxes T when the utility of the last ``pacer_step`` rounds is within 10 % of that of those before, and tightens it
    when it has changed fivefold. The factor 1.1 by which the authors overcommit is left out, since no client is late.

    Args:
        exploration: epsilon in the first round.
        decay: factor on epsilon a round.
        least_exploration: where epsilon stops falling.
        clip: quantile at which utilities are cut.
        cut_off: share of the score of rank k that suffices.
        percentile: of durations, for T; from 100 on nobody is slow.
        penalty: exponent for the slow.
        pacer_step: rounds.
        pacer_delta: percentiles.
        window: new clients considered for each seat of theirs.
    """

    exploration: float = 0.9
    decay: float = 0.95
    least_exploration: float = 0.2
    clip: float = 0.98
    cut_off: float = 0.7
    percentile: float = 10.0
    penalty: float = 2.0
    pacer_step: int = 20
    pacer_delta: float = 5.0
    window: float = 5.0

    needs = frozenset[Need]({"examples", "square_losses", "durations"})

    def __post_init__(self) -> None:
        for name in ("exploration", "decay", "least_exploration", "clip"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "must be from 0 to 1", "Correct it")
        if self.pacer_step < 1 or self.window < 1 or self.percentile <= 0:
            raise invalid("pacer_step, window or percentile", self.pacer_step, "must be above 0", "Correct them")

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``utilities``, ``last`` (round) and ``durations`` by client; ``gains``: summed utility of each last round."""
        return {"utilities": {}, "last": {}, "durations": {}, "gains": [], "percentile": float(self.percentile)}

    def choose(self, state: State, pool: Pool) -> Choice:
        clients = [profile.client for profile in pool.candidates]
        utilities: Mapping[int, float] = state["utilities"]
        durations = self._durations(state, pool.candidates)
        slow = _slowness(durations, state["percentile"], self.penalty)
        known = np.array([position for position, client in enumerate(clients) if client in utilities], dtype=np.int64)
        new = np.setdiff1d(np.arange(len(clients)), known)

        epsilon = max(self.exploration * self.decay ** (pool.round - 1), self.least_exploration)
        exploited = min(int(np.floor(pool.size * (1 - epsilon) + 1e-9)), len(known))
        exploited = max(exploited, pool.size - len(new))  # when too few are new
        chances = np.zeros(len(clients))
        chosen = []
        if exploited:
            utility = np.array([utilities[clients[position]] for position in known])
            last = np.array([state["last"][clients[position]] for position in known])
            scores = _scores(utility, last, pool.round, self.clip) * slow[known]
            enough = self.cut_off * np.sort(scores)[::-1][min(exploited, len(scores) - 1)]
            weights = np.where(scores >= enough, scores, 0.0)
            chosen.append(known[draw(weights, exploited, pool.generator)])
            chances[known] += exploited / pool.size * weights / weights.sum()
        if explored := pool.size - exploited:
            rewards = np.array([pool.candidates[position].examples for position in new]) * slow[new]
            weights = np.zeros(len(new))
            best = largest(rewards, int(np.ceil(self.window * explored)), pool.generator)
            weights[best] = rewards[best]
            chosen.append(new[draw(weights, explored, pool.generator)])
            chances[new] += explored / pool.size * weights / weights.sum()
        return Choice(np.concatenate(chosen), chances, state)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        sizes = {profile.client: profile.examples for profile in outcome.selected}
        fresh = {client: sizes[client] * float(np.sqrt(square)) for client, square in outcome.square_losses.items()}
        gains = [*state["gains"], sum(fresh.values())][-2 * self.pacer_step :]
        percentile = state["percentile"]
        if len(gains) == 2 * self.pacer_step and outcome.round % self.pacer_step == 0:
            before, now = sum(gains[: self.pacer_step]), sum(gains[self.pacer_step :])
            if abs(now - before) <= 0.1 * before:
                percentile = min(100.0, percentile + self.pacer_delta)
            elif abs(now - before) >= 5 * before:
                percentile = max(self.pacer_delta, percentile - self.pacer_delta)
        return {
            "utilities": {**state["utilities"], **fresh},
            "last": {**state["last"], **dict.fromkeys(fresh, outcome.round)},
            "durations": {**state["durations"], **outcome.durations},
            "gains": gains,
            "percentile": percentile,
        }

    @staticmethod
    def _durations(state: State, candidates: Sequence[Profile]) -> Vector:
        """As last measured, else as expected, in seconds."""
        measured: Mapping[int, float] = state["durations"]
        found = [measured.get(profile.client, profile.duration) for profile in candidates]
        if any(duration is None for duration in found):
            raise FedsimError("the selector oort needs durations, and clients do not tell theirs.")
        return np.array(found, dtype=np.float64)


def _slowness(durations: Vector, percentile: float, penalty: float) -> Vector:
    """Factor on the score of each client: 1 up to the duration preferred, less beyond it."""
    if percentile >= 100:
        return np.ones(len(durations))
    preferred = np.sort(durations)[min(int(len(durations) * percentile / 100), len(durations) - 1)]
    factors: Vector = np.minimum(1.0, preferred / durations) ** penalty
    return factors


def _scores(utility: Vector, last: NDArray[np.int64], round: int, clip: float) -> Vector:
    """Stretched utility and staleness."""
    clipped = np.minimum(utility, np.quantile(utility, clip))
    low = 0.999 * clipped.min()
    width = clipped.max() - low
    stretched = (clipped - low) / width if width > 0 else np.ones(len(clipped))
    found: Vector = stretched + np.sqrt(0.1 * np.log(round) / last)
    return found

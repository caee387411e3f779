"""What a selector is: pure functions over an explicit state, and the draw they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import invalid
from fedsim.protocol import Profile
from fedsim.registry import Registry

Need = Literal["examples", "label_counts", "losses", "updates"]
State = Mapping[str, Any]
"""What a selector remembers: numbers, strings, lists and mappings of them, or tensors; it is checkpointed."""

SELECTORS: Registry[Selector] = Registry("selector", "fedsim.selectors", imports=True)


@dataclass(frozen=True)
class RoundOutcome:
    """What became of a round.

    Attributes:
        round: its number, from 1.
        selected: profiles of the cohort, in the order of clients.
        losses: local training loss of each client that replied.
    """

    round: int
    selected: Sequence[Profile]
    losses: Mapping[int, float] = field(default_factory=dict)


class Selector(Protocol):
    """Prefers some clients over others.

    Attributes:
        needs: what it must be told about clients beyond their number; the report shows it as the price
            in privacy.
    """

    needs: frozenset[Need]

    def init(self, candidates: Sequence[Profile]) -> State:
        """The state before the first round."""
        ...

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:
        """Chance of each candidate, float64 [len(candidates)], summing to 1."""
        ...

    def update(self, state: State, outcome: RoundOutcome) -> State:
        """The state after a round."""
        ...


def draw(probabilities: NDArray[np.float64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of ``size`` different candidates, ascending, drawn one after the other without replacement.

    Where fewer than ``size`` candidates have a chance at all, those are taken and the rest is drawn
    uniformly from the others.

    Raises:
        FedsimError: fewer candidates than ``size``, or probabilities that are not.
    """
    count = len(probabilities)
    if size > count:
        raise invalid("selection.clients_per_round", size, f"there are only {count} clients", f"Use at most {count}")
    total = probabilities.sum()
    if not np.isfinite(total) or (probabilities < 0).any() or total <= 0:
        raise invalid("probabilities", probabilities.tolist(), "must be finite, not negative, and not all 0", "Mend it")
    possible = np.flatnonzero(probabilities > 0)
    if len(possible) <= size:
        others = np.setdiff1d(np.arange(count), possible)
        chosen = np.concatenate([possible, generator.choice(others, size - len(possible), replace=False)])
    else:
        chosen = generator.choice(count, size, replace=False, p=probabilities / total)
    return np.sort(chosen).astype(np.int64)

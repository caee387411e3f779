"""What a selector is: pure functions over an explicit state, and the draw they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Observation, Profile
from fedsim.registry import Registry

Need = Literal[
    "examples",
    "label_counts",
    "losses",
    "square_losses",
    "candidate_losses",
    "accuracies",
    "durations",
    "updates",
    "validation",
    "values",
]
"""What a selector may ask to be told; ``server.selection.needs`` says what each costs in privacy."""

State = Mapping[str, Any]
"""What a selector remembers: numbers, strings, lists and mappings of them, or tensors; it is checkpointed."""


@dataclass(frozen=True)
class RoundOutcome:
    """What became of a round; what the selector did not declare as a need stays empty.

    Attributes:
        round: its number, from 1.
        selected: profiles of the cohort, in the order of clients.
        losses: local training loss of each client that replied.
        square_losses: mean squared loss per example of each, at the weights it was sent.
        durations: seconds that each took.
        updates: what the server sees of each: the arrays sent and received.
        values: contribution of each to the round.
    """

    round: int
    selected: Sequence[Profile]
    losses: Mapping[int, float] = field(default_factory=dict)
    square_losses: Mapping[int, float] = field(default_factory=dict)
    durations: Mapping[int, float] = field(default_factory=dict)
    updates: Mapping[int, Observation] = field(default_factory=dict, repr=False)
    values: Mapping[int, float] = field(default_factory=dict)


Contribution = Callable[[RoundOutcome], Mapping[int, float]]
"""What each client of a round was worth, by client; computed from ``outcome.updates``."""


@dataclass(frozen=True)
class Answer:
    """How the current global model does on a client's data."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Pool:
    """What a cohort is chosen from.

    Attributes:
        round: number of the round, from 1.
        candidates: profiles of all clients.
        size: how many to choose.
        generator: of this round's draw, the only source of chance.
        ask: sends the current global model to clients, by their numbers, and brings the answers of those that
            answer: a round trip of its own, and one of the needs to declare.
    """

    round: int
    candidates: Sequence[Profile]
    size: int
    generator: np.random.Generator
    ask: Callable[[Sequence[int]], Mapping[int, Answer]]


@dataclass(frozen=True)
class Choice:
    """A cohort.

    Attributes:
        positions: different positions in the pool's candidates, int64 [size].
        chances: of each candidate to get a seat of the cohort, float64 [candidates], summing to 1, draws taken as if
            with replacement; ``None`` where there is no closed form.
        state: what the selector remembers from now on.
    """

    positions: NDArray[np.int64]
    chances: NDArray[np.float64] | None
    state: State


class Selector(Protocol):
    """Prefers some clients over others, by chances that do not depend on who else is drawn.

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


@runtime_checkable
class Choosing(Protocol):
    """A selector that composes the cohort itself: one of each cluster, the best of some drawn before, ..."""

    needs: frozenset[Need]

    def init(self, candidates: Sequence[Profile]) -> State:
        """The state before the first round."""
        ...

    def choose(self, state: State, pool: Pool) -> Choice:
        """The cohort of a round."""
        ...

    def update(self, state: State, outcome: RoundOutcome) -> State:
        """The state after a round."""
        ...


SELECTORS: Registry[Selector | Choosing] = Registry("selector", "fedsim.selectors", imports=True)


def choose(selector: Selector | Choosing, state: State, pool: Pool) -> Choice:
    """The cohort of a round by any selector, positions ascending.

    Raises:
        FedsimError: fewer candidates than seats, chances that are none, or a cohort that is none: a client twice,
            too few or too many.
    """
    if pool.size > len(pool.candidates):
        raise invalid(
            "selection.clients_per_round",
            pool.size,
            f"there are only {len(pool.candidates)} clients",
            f"Use at most {len(pool.candidates)}",
        )
    if not isinstance(selector, Choosing):
        chances = selector.probabilities(state, pool.round, pool.candidates)
        return Choice(draw(chances, pool.size, pool.generator), chances, state)
    made = selector.choose(state, pool)
    positions = np.unique(np.asarray(made.positions, dtype=np.int64))
    if (
        len(positions) != pool.size
        or len(made.positions) != pool.size
        or not 0 <= positions[0] <= positions[-1] < len(pool.candidates)
    ):
        raise FedsimError(
            f"selector {type(selector).__name__} chose the positions {np.asarray(made.positions).tolist()} for "
            f"{pool.size} seats among {len(pool.candidates)} candidates. Each must be there once."
        )
    return Choice(positions, made.chances, made.state)


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


def fill(taken: NDArray[np.int64], count: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The positions taken, and as many others of range(count) as make ``size``, drawn uniformly."""
    others = np.setdiff1d(np.arange(count), taken)
    return np.concatenate([taken, generator.choice(others, size - len(taken), replace=False)]).astype(np.int64)


def largest(scores: NDArray[np.float64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the ``size`` largest scores, from the largest on; chance decides among equal ones."""
    order = np.lexsort((generator.permutation(len(scores)), -scores))
    found: NDArray[np.int64] = order[:size].astype(np.int64)
    return found


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exponentials of scores, in proportion, summing to 1; the largest is taken off first."""
    powers = np.exp(scores - scores.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares

"""A cooperative game over clients: what a utility is, how it is remembered, and what values come of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from scipy import stats

from fedsim.errors import FedsimError, invalid

P = TypeVar("P", bound=Hashable)
"""A player: whatever names a client."""

Utility = Callable[[frozenset[P]], float]
"""What a coalition is worth; that of nobody is the global model as it was."""


@runtime_checkable
class Batched(Protocol):
    """A utility that measures several coalitions faster together than one after the other."""

    def many(self, coalitions: Sequence[frozenset[Any]]) -> Sequence[float]:
        """What each coalition is worth, in their order."""
        ...


class Remembered(Generic[P]):
    """A utility that measures each coalition once, however often it is asked for.

    Args:
        utility: what measures; its ``many`` is used where it has one.

    Attributes:
        known: what was measured so far.
    """

    def __init__(self, utility: Utility[P]) -> None:
        self._utility = utility
        self.known: dict[frozenset[P], float] = {}

    @property
    def evaluations(self) -> int:
        """How many coalitions were measured, that of nobody included."""
        return len(self.known)

    def __call__(self, coalition: frozenset[P]) -> float:
        return self.many([coalition])[0]

    def many(self, coalitions: Sequence[frozenset[P]]) -> list[float]:
        """What each coalition is worth.

        Raises:
            FedsimError: a coalition's worth is NaN or infinite.
        """
        new = [coalition for coalition in dict.fromkeys(coalitions) if coalition not in self.known]
        if new:
            one = self._utility
            found = one.many(new) if isinstance(one, Batched) else [one(coalition) for coalition in new]
            for coalition, value in zip(new, map(float, found), strict=True):
                if not abs(value) < float("inf"):
                    raise FedsimError(
                        f"The coalition of the clients {list(coalition)} is worth {value}, which is no number to "
                        "compare. Its model has diverged: lower training.learning_rate, or leave [contribution] out."
                    )
                self.known[coalition] = value
        return [self.known[coalition] for coalition in coalitions]


@dataclass(frozen=True)
class Values(Generic[P]):
    """What each player contributed to a game.

    Attributes:
        values: in units of the utility.
        errors: standard error of each value over the permutations drawn; 0 where it is exact, infinite where too
            few were drawn to know it. What truncation leaves out is not in it.
        degrees: of freedom behind ``errors``; 0 where nothing was drawn, or too little.
        evaluations: coalitions measured for it, that of nobody included.
        permutations: how many were drawn.
        stopped_by: ``all`` (nothing was drawn, or every coalition came to be known), ``precision`` (errors are
            small enough), ``convergence``, ``budget`` (of evaluations), ``permutations`` (their cap), or
            ``truncation`` (the round changed too little to be looked at, and every value is 0).
        before: what nobody was worth, the global model before the round, as measured; ``None`` if it was not.
        after: what all players together were worth, likewise.
    """

    values: Mapping[P, float]
    errors: Mapping[P, float] = field(default_factory=dict)
    degrees: int = 0
    evaluations: int = 0
    permutations: int = 0
    stopped_by: str = "all"
    before: float | None = None
    after: float | None = None

    def error(self, player: P) -> float:
        """Standard error of a player's value."""
        return self.errors.get(player, 0.0)

    def interval(self, player: P, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of a player's value by Student's t; a point where it is exact."""
        value, error = self.values[player], self.error(player)
        half = error * float(stats.t.ppf((1 + level) / 2, self.degrees)) if self.degrees else error
        return value - half, value + half


def check_players(players: Sequence[P]) -> list[P]:
    """The players, each once.

    Raises:
        FedsimError: there are none, or one is named twice.
    """
    if not players or len(set(players)) < len(players):
        raise invalid("players", list(players), "there must be one or more, each named once", "Correct the list")
    return list(players)


def gains(players: Sequence[P], utility: Remembered[P]) -> tuple[float, float]:
    """What nobody is worth, and what all players together are."""
    nobody, everybody = utility.many([frozenset(), frozenset(players)])
    return nobody, everybody

"""The methods by name, as a configuration chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from fedsim.registry import Registry
from server.contribution.exact import MOST_PLAYERS, exact, leave_one_out
from server.contribution.game import P, Utility, Values
from server.contribution.guided import Effort, gtg
from server.contribution.sampled import Stopping, published_gtg, truncated_monte_carlo


class Estimator(Protocol):
    """Finds what each player contributes to a game.

    Attributes:
        whole_run: whether the game is all of the run so far as one round, and not the last round alone.
        most_players: beyond which it refuses; ``None`` takes any number.
    """

    whole_run: ClassVar[bool]
    most_players: ClassVar[int | None]

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:
        """The value of each player; the seed is for what is drawn."""
        ...


ESTIMATORS: Registry[Estimator] = Registry("contribution", "fedsim.contributions", imports=True)


@ESTIMATORS.register("exact")
@dataclass(frozen=True)
class Exact:
    """The exact Shapley value of each round; 2^m models are evaluated for m clients.

    Args:
        study_mode: take the global model before the round to be worth 0, as the code published with
            arXiv:2106.10734 does; each value is then v({}) / m too high.
    """

    study_mode: bool = False
    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = MOST_PLAYERS

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:  # noqa: ARG002
        return exact(players, utility, empty=0.0 if self.study_mode else None)


@ESTIMATORS.register("multi_round")
@dataclass(frozen=True)
class MultiRound:
    """The exact Shapley value of each round that changes enough (TMR); a client's value is the sum over rounds.

    Args:
        round_truncation: gain up to which a round's values are 0, in units of the metric; 0 looks at every
            round.
    """

    round_truncation: float = 0.01
    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = MOST_PLAYERS

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:  # noqa: ARG002
        return exact(players, utility, truncation=self.round_truncation)


@ESTIMATORS.register("one_round")
@dataclass(frozen=True)
class OneRound:
    """The exact Shapley value of all rounds so far, taken for one; 2^N models for the N clients met so far."""

    whole_run: ClassVar[bool] = True
    most_players: ClassVar[int | None] = MOST_PLAYERS

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:  # noqa: ARG002
        return exact(players, utility)


@ESTIMATORS.register("leave_one_out")
@dataclass(frozen=True)
class LeaveOneOut:
    """What all clients of a round lose without each one; m + 1 models are evaluated."""

    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = None

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:  # noqa: ARG002
        return leave_one_out(players, utility)


@ESTIMATORS.register("truncated_monte_carlo")
@dataclass(frozen=True)
class TruncatedMonteCarlo:
    """The Shapley value of each round from random permutations; arguments as those of ``Stopping``."""

    truncation: float = 0.001
    patience: int = 0
    least: int = 30
    most: int | None = None
    convergence: float = 0.05
    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self._stopping()

    def _stopping(self) -> Stopping:
        return Stopping(self.truncation, self.patience, self.least, self.most, self.convergence)

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:
        return truncated_monte_carlo(players, utility, seed=seed, stopping=self._stopping())


@ESTIMATORS.register("gtg")
@dataclass(frozen=True)
class GTG:
    """GTG-Shapley of each round: orders in which each player has each place equally often, every coalition used.

    Args:
        round_truncation: gain up to which a round's values are 0, in units of the metric.
        truncation, precision, budget, most: as those of ``Effort``.
    """

    round_truncation: float = 0.001
    truncation: float = 0.001
    precision: float = 0.05
    budget: int | None = None
    most: int | None = None
    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self._effort()

    def _effort(self) -> Effort:
        return Effort(self.truncation, self.precision, self.budget, self.most)

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:
        return gtg(players, utility, seed=seed, round_truncation=self.round_truncation, effort=self._effort())


@ESTIMATORS.register("published_gtg")
@dataclass(frozen=True)
class PublishedGTG:
    """GTG-Shapley as its authors' code has it: guided permutations, truncated within and between rounds.

    Args:
        round_truncation: gain up to which a round's values are 0, in units of the metric.
        truncation, least, most, convergence: as those of ``Stopping``.
    """

    round_truncation: float = 0.001
    truncation: float = 0.001
    least: int = 30
    most: int | None = None
    convergence: float = 0.05
    whole_run: ClassVar[bool] = False
    most_players: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self._stopping()

    def _stopping(self) -> Stopping:
        return Stopping(self.truncation, 0, self.least, self.most, self.convergence)

    def __call__(self, players: Sequence[P], utility: Utility[P], *, seed: int) -> Values[P]:
        return published_gtg(
            players, utility, seed=seed, round_truncation=self.round_truncation, stopping=self._stopping()
        )

"""Whom to attack, when and with what: the same victims live and from a transcript."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch

from adversary.attack import Attack, Progress, check, failure
from adversary.inversion.batch import Victim, hindrances, reconstruct_many
from adversary.inversion.compiling import Compiled, compiler_problems
from fedsim import seeding
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Grant, Knowledge, Observation, Reconstruction

Past = TypeVar("Past")

Rounds = int | Sequence[int | Literal["first", "middle", "last"]] | str


@dataclass(frozen=True)
class Campaign:
    """An attack on some clients in some rounds.

    Attributes:
        attack: what is run on each victim.
        label: what results are called, and part of their seed.
        rounds: the rounds attacked, in ascending order; ``None`` for every round.
        clients: the clients attacked; ``None`` for all.
        per_round: at most so many victims a round, the first of the cohort.
        grants: what the threat model grants beyond the protocol.
        observations: how many observations of a victim are used together at most: that of the round attacked
            and the last ones before it, as many as there are.
        at_once: how many victims of a round are attacked at once at most, see ``units``.
        compiled: whether what is attacked at once is compiled, or by ``auto`` where that pays.
    """

    attack: Attack
    label: str
    rounds: tuple[int, ...] | None = None
    clients: tuple[int, ...] | None = None
    per_round: int | None = None
    grants: frozenset[Grant] = field(default_factory=frozenset)
    observations: int = 1
    at_once: int = 1
    compiled: Compiled = False

    @property
    def batched(self) -> bool:
        """Whether victims are attacked by ``reconstruct_many`` rather than by the attack's own loop."""
        return self.at_once > 1 or self.compiled is not False

    def victims(self, round: int, cohort: Sequence[int]) -> list[int]:
        """The clients of a round's cohort that are attacked, in ascending order."""
        if self.rounds is not None and round not in self.rounds:
            return []
        chosen = [client for client in sorted(cohort) if self.clients is None or client in self.clients]
        return chosen[: self.per_round]

    def units(self, round: int, cohort: Sequence[int]) -> list[list[int]]:
        """The victims of a round in the portions that are attacked at once.

        Rounding depends on who else is attacked at once, so that a portion is the least for which the same arguments
        give the same bytes.

        >>> Campaign(attack=None, label="", at_once=2).units(1, [5, 3, 4])
        [[3, 4], [5]]
        """
        victims = self.victims(round, cohort)
        return [victims[i : i + self.at_once] for i in range(0, len(victims), self.at_once)]

    def batching_problems(self, device: torch.device | str) -> list[str]:
        """What keeps the attack from several victims at once, if they are to be, each as a sentence with a remedy."""
        if not self.batched:
            return []
        problems = hindrances(self.attack)
        if self.observations > 1:
            problems.append(
                f"Of victims attacked at once a single observation is used, but observations = {self.observations}. "
                "Set observations = 1, or leave out at_once and compiled."
            )
        if not problems and self.compiled is not False:
            problems += compiler_problems(device)
        return problems

    def hears(self, round: int, client: int) -> bool:
        """Whether what a client sends in a round may be used, in that round's attack or a later one's."""
        if self.clients is not None and client not in self.clients:
            return False
        if self.rounds is None or round in self.rounds:
            return True
        return self.observations > 1 and any(later > round for later in self.rounds)

    def together(self, before: Iterable[Past]) -> list[Past]:
        """Which of a client's earlier observations, in the order of rounds, an attack uses too."""
        return list(before)[-(self.observations - 1) :] if self.observations > 1 else []

    def run(
        self,
        observation: Observation,
        knowledge: Knowledge,
        *,
        earlier: Sequence[Observation] = (),
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Attack one victim. The result depends on the observations, the knowledge and the seed alone.

        An attack that breaks numerically still counts: it leaves a grey guess, and ``stopped_by`` says why.

        Args:
            observation: of the round attacked.
            knowledge: what the threat model grants.
            seed: of the run.
            device: where to compute.
            progress: called now and then.
            earlier: observations of the same victim that are used together with it, in the order of rounds.

        Raises:
            FedsimError: the attack cannot use this observation at all.
        """
        seen = [*earlier, observation]
        check(self.attack, seen, knowledge)
        own = self._seed(seed, observation)
        started = time.monotonic()
        try:
            return self.attack.reconstruct(seen, knowledge, seed=own, device=device, progress=progress)
        except (RuntimeError, ArithmeticError) as error:
            failed = failure(observation, knowledge, f"failed: {_first_line(error)}")
            return replace(failed, seconds=time.monotonic() - started)

    def run_unit(
        self,
        unit: Sequence[Sequence[Observation]],
        knowledge: Sequence[Knowledge],
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> list[Reconstruction]:
        """Attack the victims of a unit, at once if the campaign says so; one reconstruction each, in their order.

        If that breaks, they are attacked one by one, so that only who broke it is left grey; ``stopped_by`` tells.

        Args:
            unit: of each victim its observations, in the order of rounds, that of the round attacked last.
            knowledge: of each victim, what the threat model grants.
            seed: of the run.
            device: where to compute.

        Raises:
            FedsimError: the attack cannot use an observation at all.
        """
        broken = ""
        if self.batched:
            victims = [Victim(seen, own, self._seed(seed, seen[-1])) for seen, own in zip(unit, knowledge, strict=True)]
            try:
                return reconstruct_many(self.attack, victims, device=device, compiled=self.compiled)
            except (RuntimeError, ArithmeticError) as error:
                broken = _first_line(error)
        found = [
            self.run(seen[-1], own, earlier=seen[:-1], seed=seed, device=device)
            for seen, own in zip(unit, knowledge, strict=True)
        ]
        if broken:
            found = [
                replace(one, stopped_by=f"{one.stopped_by} (alone, as all at once failed: {broken})") for one in found
            ]
        return found

    def _seed(self, seed: int, observation: Observation) -> int:
        return seeding.derive(seed, "attack", self.label, observation.round, observation.client)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def resolve_rounds(rounds: Rounds, last: int) -> tuple[int, ...] | None:
    """Round numbers from a configuration's words.

    Args:
        rounds: a number; a list of numbers and of ``first``, ``middle``, ``last``; ``"all"``; or
            ``"every 10"``, which starts at round 1.
        last: number of the last round.

    Returns:
        Ascending numbers, or ``None`` for all.

    Raises:
        FedsimError: a number that is no round, or words that are not understood.

    >>> resolve_rounds(["first", "middle", "last"], 100)
    (1, 50, 100)
    >>> resolve_rounds("every 4", 10)
    (1, 5, 9)
    """
    if rounds == "all":
        return None
    if isinstance(rounds, str):
        every = re.fullmatch(r"every ([1-9]\d*)", rounds)
        if every:
            return tuple(range(1, last + 1, int(every[1])))
        rounds = [rounds]  # type: ignore[list-item]
    named = {"first": 1, "middle": max(1, last // 2), "last": last}
    found = set()
    for one in [rounds] if isinstance(rounds, int) else rounds:
        number = named.get(one) if isinstance(one, str) else one
        if number is None:
            raise invalid(
                "attacks: rounds",
                one,
                "is not understood",
                'Use numbers, "first", "middle", "last", "all" or "every 10"',
            )
        if not 1 <= number <= last:
            raise invalid("attacks: rounds", number, f"the run has rounds 1 to {last}", "Choose among them")
        found.add(number)
    return tuple(sorted(found))


def resolve_clients(clients: int | Sequence[int] | str, federation: int) -> tuple[tuple[int, ...] | None, int | None]:
    """Which clients, and how many at most a round, from a configuration's words.

    Raises:
        FedsimError: a number that is no client.
    """
    if clients == "all":
        return None, None
    if isinstance(clients, int):
        if clients < 1:
            raise invalid("attacks: clients", clients, "attacks nobody", "Use 1 or more")
        return None, clients
    if isinstance(clients, str):
        raise invalid("attacks: clients", clients, "is not understood", 'Use a number, a list of clients or "all"')
    for client in clients:
        if not 0 <= client < federation:
            raise invalid("attacks: clients", client, f"clients are 0 to {federation - 1}", "Choose among them")
    return tuple(sorted(set(clients))), None


def refuse(problems: Sequence[str], label: str) -> None:
    """Raise what an attack misses as one error, if it misses anything.

    Raises:
        FedsimError: ``problems`` is not empty.
    """
    if problems:
        raise FedsimError(f"The attack {label!r} cannot work here. {' '.join(problems)}")

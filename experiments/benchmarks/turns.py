"""Contenders take turns, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.benchmarks.contender import Entry
from experiments.benchmarks.processes import busy_cores
from experiments.benchmarks.seat import ContenderError, Farewell, Seat
from experiments.benchmarks.workloads import Workload

QUIET = 0.25
"""Cores that others may use, before and after a turn, for it to count."""

ATTEMPTS = 3
"""How often a turn is done that others disturb."""


class Patience:
    """Waiting until nobody else computes on this machine, for so many seconds altogether.

    Args:
        seconds: altogether.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self) -> bool:
        """Until it is quiet, as long as there is patience; whether it is."""
        while True:
            started = time.monotonic()
            if busy_cores() <= QUIET:
                return True
            if self._left <= 0:
                return False
            time.sleep(0.4)
            self._left -= time.monotonic() - started


@dataclass(frozen=True)
class Part:
    """A contender with what it is to train.

    Attributes:
        name: in the results.
        entry: the contender.
        workload: what it trains.
    """

    name: str
    entry: Entry
    workload: Workload


@dataclass
class Measured:
    """What was found of one part.

    Attributes:
        name: of the part.
        title: for the table.
        startup: seconds from the start of its process to the end of its first round.
        turns: seconds of each counted round of each turn.
        disturbed: turns in which others computed on the machine, all attempts and waiting notwithstanding.
        farewell: memory and quality, if it came to its end.
        problem: why there are no figures, or none after some turn.
    """

    name: str
    title: str
    startup: float | None = None
    turns: list[list[float]] = field(default_factory=list)
    disturbed: int = 0
    farewell: Farewell | None = None
    problem: str | None = None

    @property
    def medians(self) -> list[float]:
        """Median seconds a round of each turn."""
        return [statistics.median(turn) for turn in self.turns]

    @property
    def seconds(self) -> float | None:
        """Median seconds a round over all turns."""
        rounds = [second for turn in self.turns for second in turn]
        return statistics.median(rounds) if rounds else None

    def faster_than(self, other: Measured) -> float | None:
        """How many times faster: the median over turns of the ratio to the other's turn beside it."""
        ratios = [theirs / ours for ours, theirs in zip(self.medians, other.medians, strict=False)]
        return statistics.median(ratios) if ratios else None


def take_turns(
    parts: Sequence[Part],
    *,
    turns: int,
    rounds: int,
    logs: Path,
    step: Callable[[str], None],
    patience: float = 0.0,
) -> list[Measured]:
    """Start all parts, let each train in turn, and end them.

    Who is not there or breaks down is left out from there on, with the reason in its result.

    Args:
        parts: in the order of their turns.
        turns: of each part.
        rounds: counted in a turn, after one that warms up.
        logs: a folder for what each part says.
        step: told what was done: each start and each turn of each part.
        patience: seconds to wait, altogether, for others to stop computing on this machine.
    """
    found = [Measured(part.name, part.entry.title) for part in parts]
    seats: dict[str, Seat] = {}
    waiting = Patience(patience)
    try:
        for part, measured in zip(parts, found, strict=True):
            _start(seats, part, measured, logs / f"{part.name}.log")
            step(f"{part.name} started")
        for seat in seats.values():
            seat.pause()
        for _ in range(turns):
            for measured in found:
                _turn(seats, measured, rounds, waiting)
                step(measured.name)
        for measured in found:
            _end(seats, measured)
    finally:
        for seat in seats.values():
            seat.kill()
    return found


def _start(seats: dict[str, Seat], part: Part, measured: Measured, log: Path) -> None:
    try:
        seats[part.name] = Seat(part.entry, part.workload, log)
    except ContenderError as error:
        measured.problem = str(error)
    else:
        measured.startup = seats[part.name].startup


def _turn(seats: dict[str, Seat], measured: Measured, rounds: int, waiting: Patience) -> None:
    if measured.name not in seats:
        return
    seat = seats[measured.name]
    try:
        for _ in range(ATTEMPTS):
            quiet = waiting.wait()
            seconds = seat.rounds(rounds + 1)[1:]
            seat.pause()
            quiet = quiet and busy_cores() <= QUIET
            if quiet:
                break
    except ContenderError as error:
        measured.problem = f"broke down after {len(measured.turns)} turns: {error}"
        del seats[measured.name]
    else:
        measured.turns.append(seconds)
        measured.disturbed += not quiet


def _end(seats: dict[str, Seat], measured: Measured) -> None:
    if measured.name not in seats:
        return
    try:
        measured.farewell = seats.pop(measured.name).end()
    except ContenderError as error:
        measured.problem = f"broke down at the end: {error}"

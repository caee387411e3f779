"""A contender in a process of its own, which computes only when it is its turn."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments.benchmarks.contender import Entry
from experiments.benchmarks.processes import family, peak_mb, send, together_mb
from experiments.benchmarks.workloads import Workload

SETTLE = 0.05
"""Seconds that a continued contender has to catch up with its timers before it is measured."""

PATIENCE = 60.0
"""Seconds that it has to end."""


class ContenderError(Exception):
    """A contender cannot start, or broke down."""


@dataclass(frozen=True)
class Farewell:
    """What is known of a contender at the end.

    Attributes:
        peak_mb: most memory that its first process ever had; 0 where the system does not say.
        together_mb: memory of all its processes after the last round, what they share counted once.
        loss: of the global arrays on the test images.
        accuracy: of the same.
    """

    peak_mb: float
    together_mb: float
    loss: float
    accuracy: float


class Seat:
    """The measuring side.

    Args:
        entry: the contender.
        workload: what it trains.
        log: where all that it says goes.

    Raises:
        ContenderError: it cannot take part; the message says why.
    """

    def __init__(self, entry: Entry, workload: Workload, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        missing = entry.missing()
        if missing is not None:
            raise ContenderError(missing)
        self._log = log
        self._members: list[int] = []
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        started = time.perf_counter()
        # pfl refuses to work in a process that does not have the name of a main process.
        self._process = spawn.Process(target=_sit, args=(theirs, entry, workload, str(log)), name="MainProcess")
        self._process.start()
        theirs.close()
        self._reply()
        self.startup = time.perf_counter() - started
        """Seconds from the start of the process, with all imports, to the end of the first round."""

    def rounds(self, number: int) -> list[float]:
        """Train so many rounds; the seconds of each.

        Raises:
            ContenderError: it broke down.
        """
        if self._resume():
            time.sleep(SETTLE)
        self._pipe.send(number)
        seconds: list[float] = self._reply()
        return seconds

    def pause(self) -> None:
        """Stop all its processes until its next turn: daemons and polling threads compute otherwise."""
        if sys.platform == "linux":
            self._members = family(self._pid)
            send(self._members, signal.SIGSTOP)

    def end(self) -> Farewell:
        """Close the contender.

        Raises:
            ContenderError: it broke down.
        """
        self._resume()
        peak, together = peak_mb(self._pid), together_mb(family(self._pid))
        try:
            self._pipe.send(None)
            loss, accuracy = self._reply()
        finally:
            self._leave(PATIENCE)
        return Farewell(peak, together, loss, accuracy)

    def kill(self) -> None:
        """End all its processes, whatever they do."""
        self._leave(0.0)

    @property
    def _pid(self) -> int:
        return self._process.pid or 0

    def _resume(self) -> bool:
        """Continue if paused; whether it was."""
        members, self._members = self._members, []
        send(members, signal.SIGCONT)
        return bool(members)

    def _leave(self, patience: float) -> None:
        members = family(self._pid)
        self._process.join(patience)
        send([pid for pid in members if pid != os.getpid()], signal.SIGKILL)
        self._process.join()

    def _reply(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            good, value = False, f"its process ended; see {self._log}"
        if not good:
            self._leave(0.0)
            raise ContenderError(value)
        return value


def _sit(pipe: Connection, entry: Entry, workload: Workload, log: str) -> None:
    """The contender's side: rounds on demand, until there is none."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # as ``fedsim run`` has it; several lines a round otherwise
    try:
        contender = entry.make(workload)
        contender.round()
        pipe.send((True, None))
        while (number := pipe.recv()) is not None:
            pipe.send((True, [_timed(contender) for _ in range(number)]))
        pipe.send((True, _quality(workload, contender)))
        contender.close()
    except Exception as error:  # noqa: BLE001  (whatever a contender raises belongs into the table)
        traceback.print_exc()
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _timed(contender: Any) -> float:
    started = time.perf_counter()
    contender.round()
    return time.perf_counter() - started


def _quality(workload: Workload, contender: Any) -> tuple[float, float]:
    """Loss and accuracy of its arrays on the test images."""
    from clients.training import evaluate

    experiment = workload.experiment()
    model = experiment.model()
    model.load_state_dict(dict(contender.arrays()))
    found = evaluate(model, experiment.data.test, (experiment.data.mean, experiment.data.std))
    return found["loss"], found["accuracy"]

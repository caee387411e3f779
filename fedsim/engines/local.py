"""The ``local`` engine: a Flower Grid whose nodes are simulated by threads, or processes, of this machine."""

from __future__ import annotations

import copy
import itertools
import sys

import torch
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.feeder import Feeder
from fedsim.engines.simulated import Answer, AppFactory, SimulatedGrid, deliver
from fedsim.engines.turns import Turn, Turns
from fedsim.errors import invalid

WORTH_A_PARCEL = 0.02
"""Seconds of work to give to a process at once: what it costs to wake its feeder is little beside them."""


@ENGINES.register("local")
class LocalGrid(SimulatedGrid):
    """A pool of threads over the clients, without daemon or transport.

    Python runs one thread at a time, so that several threads are faster than one only as long as they
    are inside torch. With ``processes`` each thread has a forked process, which shares the data in memory,
    to compute for it. That pays for small networks, and a client that hangs is really ended.

    Args:
        app: the client side, or what makes it.
        clients: number of simulated clients.
        workers: threads; each computes with one thread, so that results do not depend on their number.
        processes: whether each has a process of its own.
    """

    def __init__(self, app: ClientApp | AppFactory, clients: int, workers: int = 1, *, processes: bool = False) -> None:
        if processes and not can_fork():
            raise invalid(
                "engine.processes",
                processes,
                "this system cannot fork a process that computes (it is not Linux, or has a GPU)",
                'Leave it out, or use the engine "ray"',
            )
        self._app = app if isinstance(app, ClientApp) else app()
        self._feeders = [Feeder(self._app, clients) for _ in range(workers)] if processes else []
        self._seats = itertools.count()
        super().__init__(clients, workers, _one_thread)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, where they are processes."""
        return [feeder.pid for feeder in self._feeders]

    def close(self) -> None:
        for feeder in self._feeders:
            feeder.close()
        super().close()

    def _deliver(self, turn: Turn[Answer]) -> Answer:
        return deliver(self._app, turn.message, self._clients, copy.deepcopy(turn.state))  # it shares arrays

    def _serve(self, turns: Turns[Answer]) -> None:
        if self._feeders:
            self._feeders[next(self._seats)].serve(turns)
        else:
            super()._serve(turns)

    def _bunch(self, messages: int) -> int:
        paces = [feeder.pace for feeder in self._feeders if feeder.pace is not None]
        if not paces:
            return 1
        share = -(-messages // len(self._feeders))
        return max(1, min(share, int(WORTH_A_PARCEL / max(paces))))

    def _give_up(self, turn: Turn[Answer]) -> bool:
        if not self._feeders:
            return super()._give_up(turn)
        return any(feeder.give_up(turn) for feeder in self._feeders)


def can_fork() -> bool:
    """Whether a forked process can compute here: on Linux, as long as there is no GPU, whose driver forbids it."""
    return sys.platform == "linux" and not torch.cuda.device_count()


def _one_thread() -> None:
    torch.set_num_threads(1)

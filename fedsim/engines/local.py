"""The ``local`` engine: a Flower Grid whose nodes are simulated by threads, or processes, of this machine."""

from __future__ import annotations

import copy
import itertools
import sys
import threading
from concurrent.futures import CancelledError

import torch
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.child import Child
from fedsim.engines.simulated import ATTEMPTS, Answer, AppFactory, SimulatedGrid, deliver, failure
from fedsim.engines.turns import Turn
from fedsim.errors import invalid


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
        # A process has two threads to feed it, so that the next message is there when it is done with one.
        super().__init__(clients, workers * (2 if processes else 1), _one_thread)
        self._app = app if isinstance(app, ClientApp) else app()
        self._lock = threading.Lock()
        self._seats = itertools.count()
        self._mine = threading.local()
        self._children = [Child(self._app, clients) for _ in range(workers)] if processes else []
        self._asked: dict[Turn[Answer], Child] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, where they are processes."""
        return [child.pid for child in self._children]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for child in self._children:
                child.end()
        super().close()

    def _deliver(self, turn: Turn[Answer]) -> Answer:
        if not self._children:
            return deliver(self._app, turn.message, self._clients, copy.deepcopy(turn.state))  # shares arrays
        attempts = 0
        while attempts < ATTEMPTS and not turn.abandoned:
            child = self._child()
            self._asked[turn] = child
            try:
                return child.ask(turn)
            except (EOFError, OSError):
                attempts += turn.started is not None  # else it was another client whom the process died with
                self._replace(child)
            finally:
                del self._asked[turn]
        return failure(turn.message, f"the worker process died with this client in it, in each of {ATTEMPTS} attempts")

    def _give_up(self, turn: Turn[Answer]) -> None:
        child = self._asked.get(turn)
        if child is None:
            super()._give_up(turn)
        else:  # its threads go on with another
            turn.abandoned = True
            child.end()

    def _child(self) -> Child:
        """The process that this thread feeds."""
        if not hasattr(self._mine, "seat"):
            self._mine.seat = next(self._seats) % len(self._children)
        seat: int = self._mine.seat
        return self._children[seat]

    def _replace(self, child: Child) -> None:
        with self._lock:
            if self._closed:
                raise CancelledError
            if child in self._children:
                child.end()
                self._children[self._children.index(child)] = Child(self._app, self._clients)


def can_fork() -> bool:
    """Whether a forked process can compute here: on Linux, as long as there is no GPU, whose driver forbids it."""
    return sys.platform == "linux" and not torch.cuda.device_count()


def _one_thread() -> None:
    torch.set_num_threads(1)

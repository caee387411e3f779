"""The ``local`` engine: a Flower Grid whose nodes are simulated by threads of this process."""

from __future__ import annotations

import copy

import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.simulated import Answer, AppFactory, SimulatedGrid, deliver


@ENGINES.register("local")
class LocalGrid(SimulatedGrid):
    """A pool of threads over the clients, without daemon or transport.

    Args:
        app: the client side, or what makes it.
        clients: number of simulated clients.
        workers: threads; each computes with one thread, so that results do not depend on their number.
    """

    def __init__(self, app: ClientApp | AppFactory, clients: int, workers: int = 1) -> None:
        super().__init__(clients, workers, _one_thread)
        self._app = app if isinstance(app, ClientApp) else app()

    def _deliver(self, message: Message, state: RecordDict | None) -> Answer:
        return deliver(self._app, message, self._clients, copy.deepcopy(state))  # shares the arrays' bytes


def _one_thread() -> None:
    torch.set_num_threads(1)

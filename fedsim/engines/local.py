"""The ``local`` engine: a Flower Grid whose nodes are simulated by threads of this process."""

from __future__ import annotations

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.simulated import AppFactory, SimulatedGrid, context_of, deliver


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

    def _deliver(self, message: Message) -> Message:
        client = message.metadata.dst_node_id
        context = context_of(client, self._clients, self._states.get(client))
        reply = deliver(self._app, message, context)
        self._keep(client, context.state)
        return reply


def _one_thread() -> None:
    torch.set_num_threads(1)

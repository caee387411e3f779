"""What runs inside a Ray actor of the ``ray`` engine: one app, answering one message at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines.simulated import Answer, AppFactory, complete, deliver, identify
from fedsim.errors import FedsimError


class ClientActor:
    """Answers for whichever clients it is given; it holds nothing of theirs between two messages.

    The actor makes the app, and with it the data set, on its own node; neither is ever sent. It computes
    with one thread, as the threads of the ``local`` engine do.

    Args:
        make_app: makes the client side.
        clients: number of simulated clients.
    """

    def __init__(self, make_app: AppFactory, clients: int) -> None:
        torch.set_num_threads(1)
        identify()
        self._make_app = make_app
        self._clients = clients
        self._app: ClientApp | None = None
        self._fetched: dict[str, tuple[str, ArrayRecord]] = {}

    def start(self) -> int:
        """Make the app; the id of this process.

        Raises:
            FedsimError: the app cannot be made on this node.
        """
        self._app = self._make_app()
        return os.getpid()

    def answer(self, message: Message, keys: list[str], stored: Mapping[str, Any], state: RecordDict | None) -> Answer:
        """A client's answer.

        Args:
            message: without its arrays.
            keys: of the whole content, in order.
            stored: references to the arrays in the object store, by key.
            state: what the client left behind before.
        """
        if self._app is None:
            raise FedsimError("The actor was given a message before it was started.")
        arrays = {key: self._fetch(key, reference) for key, reference in stored.items()}
        return deliver(self._app, complete(message, keys, arrays), self._clients, state)

    def _fetch(self, key: str, reference: Any) -> ArrayRecord:
        """The record behind a reference; the last one of each key is kept, as a round's messages share it."""
        import ray

        name, last = reference.hex(), self._fetched.get(key)
        if last is None or last[0] != name:
            last = self._fetched[key] = (name, ray.get(reference))
        return last[1]

"""The ``local`` engine: a Flower Grid whose nodes are simulated by threads of this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.engines import ENGINES
from fedsim.errors import FedsimError, invalid


RUN_ID = 1


@ENGINES.register("local")
class LocalGrid(Grid):
    """A pool of threads over the clients, without daemon or transport.

    Node ids are the clients' numbers, 0 to ``clients - 1``. A client's context is made when a message
    first reaches it and kept only if the client put something into it, so that idle clients cost
    nothing. Replies come back in the order of the messages, whoever finished first.

    Args:
        app: the client side.
        clients: number of simulated clients.
        workers: threads; each computes with one thread, so that results do not depend on their number.
    """

    nodes_are_clients = True

    def __init__(self, app: ClientApp, clients: int, workers: int = 1) -> None:
        if workers < 1:
            raise invalid("engine.workers", workers, "must be 1 or more", "Use the number of cores")
        self._app = app
        self._clients = clients
        self._contexts: dict[int, Context] = {}
        self._ids = itertools.count(1)
        self._replies: dict[str, Future[Message]] = {}
        self._run = Run.create_empty(run_id=RUN_ID)
        _identify()
        self._pool = ThreadPoolExecutor(workers, "client", initializer=_one_thread)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(self._clients)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return (NodeInfo(node_id=node_id) for node_id in self.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = str(next(self._ids))
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids set it
            self._replies[message_id] = self._pool.submit(self._deliver, message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        ids = list(self.push_messages(messages))
        wait([self._replies[i] for i in ids], timeout=timeout)
        return self.pull_messages(ids)

    def close(self) -> None:
        """Let the threads finish what they do and end them."""
        self._pool.shutdown(cancel_futures=True)

    def _deliver(self, message: Message) -> Message:
        client = message.metadata.dst_node_id
        context = self._contexts.get(client) or self._context(client)
        try:
            reply = self._app(message, context)
        except FedsimError as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)
        except Exception as error:  # noqa: BLE001  (whatever a client does, the round goes on)
            return Message(
                Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}: {error}"), reply_to=message
            )
        if context.state:
            self._contexts[client] = context
        return reply

    def _context(self, client: int) -> Context:
        node_config: dict[str, bool | float | int | str] = {
            "partition-id": client,
            "num-partitions": self._clients,
        }
        return Context(1, client, node_config, RecordDict(), {})


def _identify() -> None:
    """Tell Flower who sends: a Message cannot be made before. Flower's own runtimes have done so already."""
    try:
        TaskIdentity.run_id  # noqa: B018
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID


def _one_thread() -> None:
    torch.set_num_threads(1)

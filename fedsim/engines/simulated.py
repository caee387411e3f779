"""What engines over simulated clients share: node ids, contexts, and messages on their way there and back."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.errors import FedsimError, invalid

RUN_ID = 1

AppFactory = Callable[[], ClientApp]
"""Makes the client side, in whatever process its clients are to run."""


class SimulatedGrid(Grid):
    """A Flower Grid whose nodes are simulated by a fixed number of workers, a thread of this process each.

    Node ids are the clients' numbers, 0 to ``clients - 1``. A client's state is kept only if the client put
    something into it, so that idle clients cost nothing. Replies come back in the order of the messages,
    whoever finished first.

    Args:
        clients: number of simulated clients.
        workers: clients computed at the same time.
        initialise: called once in each thread.
    """

    nodes_are_clients = True

    def __init__(self, clients: int, workers: int, initialise: Callable[[], None] | None = None) -> None:
        if workers < 1:
            raise invalid("engine.workers", workers, "must be 1 or more", "Use the number of cores")
        self._clients = clients
        self._states: dict[int, RecordDict] = {}
        self._ids = itertools.count(1)
        self._replies: dict[str, Future[Message]] = {}
        self._run = Run.create_empty(run_id=RUN_ID)
        identify()
        self._pool = ThreadPoolExecutor(workers, "client", initializer=initialise)

    @abstractmethod
    def _deliver(self, message: Message) -> Message:
        """Have the client that the message is for answer it; called in a worker's thread."""

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
        replies = self.pull_messages(ids)
        for late in (i for i in ids if i in self._replies):
            self._abandon(late)
        return replies

    def close(self) -> None:
        """Let the workers finish what they do and end them."""
        self._pool.shutdown(cancel_futures=True)

    def _abandon(self, message_id: str) -> None:
        """Nobody waits for this reply any more: a message that waits for a worker need not be delivered."""
        self._replies.pop(message_id).cancel()

    def _keep(self, client: int, state: RecordDict) -> None:
        if state:
            self._states[client] = state
        else:
            self._states.pop(client, None)


def deliver(app: ClientApp, message: Message, context: Context) -> Message:
    """A client's answer; an error message if the client raised, for the round goes on whatever it does."""
    try:
        return app(message, context)
    except FedsimError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  (whatever a client does, the round goes on)
        reason = f"{type(error).__name__}: {error}"
    return failure(message, reason)


def failure(message: Message, reason: str) -> Message:
    """The answer that says why there is none."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def context_of(client: int, clients: int, state: RecordDict | None) -> Context:
    """The context of a simulated client, with the state it left behind."""
    node_config: dict[str, bool | float | int | str] = {"partition-id": client, "num-partitions": clients}
    return Context(RUN_ID, client, node_config, RecordDict() if state is None else state, {})


def identify() -> None:
    """Tell Flower who sends: a Message cannot be made before. Flower's own runtimes have done so already."""
    try:
        TaskIdentity.run_id  # noqa: B018
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID

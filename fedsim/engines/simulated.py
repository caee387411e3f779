"""What engines over simulated clients share: node ids, contexts, and messages on their way there and back."""

from __future__ import annotations

import copy
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.engines.turns import Turn, Turns, one_by_one
from fedsim.errors import FedsimError, invalid

RUN_ID = 1

ATTEMPTS = 3
"""How often a message is delivered when each time the worker process is lost with it: its client may be the cause."""

LEAST_PATIENCE = 0.01
"""Seconds between looks at who is late, while somebody is whose time is about to begin anew."""

AppFactory = Callable[[], ClientApp]
"""Makes the client side, in whatever process its clients are to run."""


@dataclass(frozen=True)
class Answer:
    """A client's reply, and the state it leaves behind; ``None`` if that stays as it was."""

    client: int
    reply: Message
    state: RecordDict | None


class SimulatedGrid(Grid):
    """A Flower Grid whose nodes are simulated by a fixed number of workers, a thread of this process each.

    Node ids are the clients' numbers, 0 to ``clients - 1``. A client's state is what it left behind with its
    last answer that was received: a client that raises, is too late or is lost leaves nothing. Only states
    that hold something are kept, so that idle clients cost nothing. Replies come back in the order of the
    messages, whoever finished first. A client's time runs from when a worker takes its message, so that who
    is too late does not depend on how many clients there are to a worker, nor on who hangs before it.

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
        self._turns: dict[str, Turn[Answer]] = {}
        self._run = Run.create_empty(run_id=RUN_ID)
        identify()
        self._initialise = initialise
        self._workers: Turns[Answer] = Turns(workers, self._serve)

    @abstractmethod
    def _deliver(self, turn: Turn[Answer]) -> Answer:
        """Have the client that the message is for answer it, whose state is not to be written to; in a thread."""

    def _serve(self, turns: Turns[Answer]) -> None:
        """What a thread does."""
        one_by_one(self._deliver, self._initialise)(turns)

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
        turns = {}
        for message in messages:
            message_id = str(next(self._ids))
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids set it
            turns[message_id] = Turn[Answer](message, self._states.get(message.metadata.dst_node_id))
        self._turns |= turns
        waiting = list(turns.values())
        size = self._bunch(len(waiting))
        for start in range(0, len(waiting), size):
            self._workers.put(waiting[start : start + size])
        return list(turns)

    def _bunch(self, messages: int) -> int:  # noqa: ARG002
        """How many of so many messages a worker is to take at once."""
        return 1

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [i for i in message_ids if i in self._turns and self._turns[i].answer.done()]
        return [self._receive(self._turns.pop(i).answer.result()) for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        ids = list(self.push_messages(messages))
        self._wait([self._turns[i] for i in ids], timeout)
        return self.pull_messages(ids)

    def _wait(self, turns: list[Turn[Answer]], timeout: float | None) -> None:
        """Until each client has answered, or has had its time."""
        waiting = turns
        while waiting:
            now = time.monotonic()
            if timeout is not None:
                for late in [turn for turn in waiting if turn.age(now) >= timeout and not turn.answer.done()]:
                    if not self._give_up(late):
                        continue
                    del self._turns[late.message.metadata.message_id]
                    waiting = [turn for turn in waiting if turn is not late]
            oldest = max((turn.age(now) for turn in waiting), default=0.0)
            patience = None if timeout is None else max(LEAST_PATIENCE, timeout - oldest)
            _, missing = wait([turn.answer for turn in waiting], timeout=patience)
            waiting = [turn for turn in waiting if turn.answer in missing]

    def states(self) -> dict[int, RecordDict]:
        """What each client keeps between messages, for a checkpoint; clients that keep nothing are left out."""
        return dict(self._states)

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Give clients the states that ``states`` told of."""
        self._states = dict(states)

    def close(self) -> None:
        """Let the workers finish what they do and end them; who hangs is left behind."""
        self._workers.close()

    def _give_up(self, turn: Turn[Answer]) -> bool:
        """Wait no more for the answer, which a worker is busy with; false if its time begins anew instead."""
        self._workers.replace(turn)
        return True

    def _receive(self, answer: Answer) -> Message:
        if answer.state:
            self._states[answer.client] = answer.state
        elif answer.state is not None:
            self._states.pop(answer.client, None)
        return answer.reply


def deliver(app: ClientApp, message: Message, clients: int, state: RecordDict | None) -> Answer:
    """What an app answers for one of ``clients``, in whose state it may write.

    Whatever the client does, the round goes on: if it raises, its answer is an error.
    """
    client = message.metadata.dst_node_id
    node_config: dict[str, bool | float | int | str] = {"partition-id": client, "num-partitions": clients}
    context = Context(RUN_ID, client, node_config, RecordDict() if state is None else state, {})
    try:
        return Answer(client, app(message, context), context.state)
    except FedsimError as error:
        return failure(message, str(error))
    except Exception as error:  # noqa: BLE001
        return failure(message, f"{type(error).__name__}: {error}")


def lighten(message: Message) -> tuple[Message, list[str], dict[str, ArrayRecord]]:
    """A copy of the message without its arrays, the keys of the whole content, and the arrays by key."""
    content = message.content
    arrays = {key: record for key, record in content.items() if isinstance(record, ArrayRecord)}
    light = copy.copy(message)
    light.content = RecordDict({key: record for key, record in content.items() if key not in arrays})
    return light, list(content), arrays


def complete(light: Message, keys: list[str], arrays: Mapping[str, ArrayRecord]) -> Message:
    """The message that was lightened, with its arrays."""
    light.content = RecordDict({key: arrays[key] if key in arrays else light.content[key] for key in keys})
    return light


def failure(message: Message, reason: str) -> Answer:
    """The answer that says why there is none."""
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return Answer(message.metadata.dst_node_id, Message(error, reply_to=message), None)


def identify() -> None:
    """Tell Flower who sends: a Message cannot be made before. Flower's own runtimes have done so already."""
    try:
        TaskIdentity.run_id  # noqa: B018
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID

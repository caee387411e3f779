"""A strategy around a strategy: everything passes through, and a subclass changes one thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


class Wrapped(Strategy):
    """Any Flower ``Strategy``, unchanged."""

    def __init__(self, strategy: Strategy) -> None:
        self.inner = strategy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.inner.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def client_at(self, node: int) -> int:
        """The number of the client on a node, or the node's own where no wrapper has met it."""
        return client_at(self.inner, node)

    def values(self) -> Mapping[int, float]:
        """What each client of the round just aggregated was worth; empty where no wrapper appraises it."""
        return values_in(self.inner)

    def summary(self) -> None:
        self.inner.summary()


def innermost(strategy: Strategy) -> Strategy:
    """The strategy under all wrappers."""
    while isinstance(strategy, Wrapped):
        strategy = strategy.inner
    return strategy


def client_at(strategy: Strategy, node: int) -> int:
    """The number of the client on a node, as the wrappers around a strategy know it; else the node's own."""
    return strategy.client_at(node) if isinstance(strategy, Wrapped) else node


def values_in(strategy: Strategy) -> Mapping[int, float]:
    """What each client of the round just aggregated was worth, as a wrapper found it; else nothing."""
    return strategy.values() if isinstance(strategy, Wrapped) else {}


def client_of(reply: Message) -> int:
    """The number of the client that replied: its partition, or Flower's node id where it names none."""
    if reply.has_content():
        record = reply.content.get("client")
        if isinstance(record, ConfigRecord) and "partition-id" in record:
            return int(cast("int", record["partition-id"]))
    return reply.metadata.src_node_id


def records(message: Message, kind: type[R]) -> list[R]:
    """The records of a kind in a message; Flower's own views of them copy and check them each time."""
    return [record for record in message.content.values() if isinstance(record, kind)]


def in_order(replies: Iterable[Message]) -> list[Message]:
    """Replies by client, whatever the order they came in: sums of floats depend on it."""
    return sorted(replies, key=client_of)

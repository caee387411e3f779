"""The strategy wrapper that narrows the grid to the clients a selector chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim import seeding
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Profile
from server.selection.selector import RoundOutcome, Selector, State, draw
from server.wrapping import Wrapped, client_of, in_order, innermost, records


@dataclass(frozen=True)
class Selection:
    """Who was chosen in a round: clients, and the chance each had."""

    clients: tuple[int, ...]
    probabilities: tuple[float, ...]


class Selective(Wrapped):
    """Let a selector choose the cohort; the strategy inside sees no other node.

    Messages go out, and replies are aggregated, in the order of clients, so that the result does not
    depend on who was faster.

    Args:
        strategy: the strategy that does the work; it must not sample again (Flower's defaults do not).
        selector: whom to prefer.
        clients_per_round: size of the cohort; ``None`` chooses everybody.
        seed: of the experiment.
    """

    def __init__(
        self, strategy: Strategy, selector: Selector, clients_per_round: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(strategy)
        self.selector = selector
        self.clients_per_round = clients_per_round
        self.seed = seed
        self.state: State | None = None
        self.selection = Selection((), ())
        self._nodes: dict[int, int] = {}
        self._candidates: list[Profile] = []

    def state_dict(self) -> Mapping[str, Any]:
        """What the selector remembers."""
        return {"selector": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.state = state["selector"]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self._candidates:
            self._nodes, self._candidates = _candidates(grid, self.selector)
        if self.state is None:
            self.state = self.selector.init(self._candidates)
        chances = self.selector.probabilities(self.state, server_round, self._candidates)
        size = len(self._candidates) if self.clients_per_round is None else self.clients_per_round
        chosen = draw(chances, size, seeding.numpy_generator(self.seed, "selection", "round", server_round))
        self._cohort = [self._candidates[i] for i in chosen]
        self.selection = Selection(
            tuple(profile.client for profile in self._cohort), tuple(float(chances[i]) for i in chosen)
        )
        _refuse_to_wait(self.inner, len(chosen))
        nodes = [self._nodes[client] for client in self.selection.clients]
        rank = {node: position for position, node in enumerate(nodes)}
        messages = super().configure_train(server_round, arrays, config, cast("Grid", _Narrow(grid, nodes)))
        return sorted(messages, key=lambda message: rank[message.metadata.dst_node_id])

    def client_at(self, node: int) -> int:
        return next((client for client, known in self._nodes.items() if known == node), node)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        ordered = in_order(replies)
        result = super().aggregate_train(server_round, ordered)
        if self.state is not None:
            outcome = RoundOutcome(server_round, self._cohort, _losses(ordered))
            self.state = self.selector.update(self.state, outcome)
        return result


class _Narrow:
    """A grid with fewer nodes; all else is the grid's own."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid = grid
        self._chosen = nodes

    def get_node_ids(self) -> Iterable[int]:
        return list(self._chosen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


def profiles(grid: Grid, timeout: float | None = 600) -> tuple[dict[int, int], list[Profile]]:
    """Ask every node for its profile.

    Returns:
        The node id of each client, and the profiles in the order of clients.

    Raises:
        FedsimError: a node does not answer, or two say they are the same client.
    """
    nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    found: dict[int, Profile] = {}
    ids: dict[int, int] = {}
    for reply in replies:
        if reply.has_error():
            raise FedsimError(f"Node {reply.metadata.src_node_id} sent no profile: {reply.error.reason}")
        record = reply.content.config_records["profile"]
        client = int(cast("int", record["partition-id"]))
        if client in found:
            raise FedsimError(f"Two nodes say they are client {client}. Give each node a partition-id of its own.")
        counts = cast("list[int] | None", record.get("label-counts"))
        found[client] = Profile(client, int(cast("int", record["num-examples"])), tuple(counts) if counts else None)
        ids[client] = reply.metadata.src_node_id
    if len(found) < len(nodes):
        raise FedsimError(f"Only {len(found)} of {len(nodes)} nodes sent a profile within {timeout} seconds.")
    return ids, [found[client] for client in sorted(found)]


def _candidates(grid: Grid, selector: Selector) -> tuple[dict[int, int], list[Profile]]:
    """Profiles by query where the selector needs them; on a simulated grid nodes are clients already."""
    if not selector.needs and getattr(grid, "nodes_are_clients", False):
        clients = list(grid.get_node_ids())
        return {client: client for client in clients}, [Profile(client, 0) for client in clients]
    return profiles(grid)


def _losses(replies: Iterable[Message]) -> dict[int, float]:
    return {
        client_of(reply): float(cast("float", metrics["train-loss"]))
        for reply in replies
        if reply.has_content()
        for metrics in records(reply, MetricRecord)
        if "train-loss" in metrics
    }


def _refuse_to_wait(strategy: Strategy, cohort: int) -> None:
    """Flower's strategies wait for more nodes for ever; the grid they see here never grows."""
    inner = innermost(strategy)
    least = max(getattr(inner, "min_available_nodes", 0), getattr(inner, "min_train_nodes", 0))
    if least > cohort:
        raise invalid(
            "min_available_nodes or min_train_nodes",
            least,
            f"the strategy would wait for ever for more than the {cohort} clients of the cohort",
            f"Set both to at most {cohort}, or select more clients a round",
        )

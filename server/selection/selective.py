"""The strategy wrapper that narrows the grid to the clients a selector chose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim import seeding
from fedsim.arrays import Decoder
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import REPORT_KEY, SQUARE_LOSS, Observation, Profile
from server.selection.asking import answers, profiles
from server.selection.selector import Answer, Choosing, Contribution, Pool, RoundOutcome, Selector, State, choose
from server.wiretap import observation
from server.wrapping import Wrapped, client_of, in_order, innermost, records

Durations = Callable[[int, int | None], float]
"""Seconds that a client takes for a round; without a round, what it expects of any."""


@dataclass(frozen=True)
class Selection:
    """Who was chosen in a round.

    Attributes:
        clients: their numbers.
        probabilities: the chance each had to get a seat; ``None`` where it has no closed form.
        durations: seconds that each takes, if the selector is told.
        values: contribution of each client that replied, once the round is over, if the selector is told.
    """

    clients: tuple[int, ...]
    probabilities: tuple[float | None, ...]
    durations: Mapping[int, float] | None = None
    values: Mapping[int, float] | None = None


class Selective(Wrapped):
    """Let a selector choose the cohort; the strategy inside sees no other node.

    Messages go out, and replies are aggregated, in the order of clients, so that the result does not
    depend on who was faster.

    Args:
        strategy: the strategy that does the work; it must not sample again (Flower's defaults do not).
        selector: whom to prefer.
        clients_per_round: size of the cohort; ``None`` chooses everybody.
        seed: of the experiment.
        durations: how long clients take, for selectors that need it.
        contribution: what each client of a round was worth, for selectors that need it.

    Raises:
        FedsimError: the selector needs what is not given.
    """

    def __init__(
        self,
        strategy: Strategy,
        selector: Selector | Choosing,
        clients_per_round: int | None = None,
        seed: int = 0,
        *,
        durations: Durations | None = None,
        contribution: Contribution | None = None,
    ) -> None:
        super().__init__(strategy)
        self.selector = selector
        self.clients_per_round = clients_per_round
        self.seed = seed
        self.state: State | None = None
        self.selection = Selection((), ())
        self._durations = durations if "durations" in selector.needs else None
        self._contribution = contribution if "values" in selector.needs else None
        self._sent: dict[int, RecordDict] = {}
        self._decode = Decoder()
        for need, given in (("durations", durations), ("values", contribution)):
            if need in selector.needs and given is None:
                argument = {"durations": "durations", "values": "contribution"}[need]
                raise FedsimError(
                    f"selector {type(selector).__name__} needs {need} of clients, and nothing gives them. "
                    f"Give Selective(..., {argument}=...), or choose another selector."
                )
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
            self._nodes, self._candidates = _candidates(grid, self.selector, self._durations)
        if self.state is None:
            self.state = self.selector.init(self._candidates)

        def ask(clients: Sequence[int]) -> dict[int, Answer]:
            return answers(grid, arrays, [self._nodes[client] for client in clients], server_round)

        size = len(self._candidates) if self.clients_per_round is None else self.clients_per_round
        generator = seeding.numpy_generator(self.seed, "selection", "round", server_round)
        choice = choose(self.selector, self.state, Pool(server_round, self._candidates, size, generator, ask))
        self.state = choice.state
        self._cohort = [self._candidates[i] for i in choice.positions]
        self.selection = Selection(
            tuple(profile.client for profile in self._cohort),
            tuple(None if choice.chances is None else float(choice.chances[i]) for i in choice.positions),
            self._durations and {p.client: self._durations(p.client, server_round) for p in self._cohort},
        )
        _refuse_to_wait(self.inner, size)
        if "square_losses" in self.selector.needs:
            config[REPORT_KEY] = [SQUARE_LOSS]
        nodes = [self._nodes[client] for client in self.selection.clients]
        rank = {node: position for position, node in enumerate(nodes)}
        sent = super().configure_train(server_round, arrays, config, cast("Grid", _Narrow(grid, nodes)))
        messages = sorted(sent, key=lambda message: rank[message.metadata.dst_node_id])
        if "updates" in self.selector.needs:
            self._sent = {message.metadata.dst_node_id: message.content for message in messages}
        return messages

    def client_at(self, node: int) -> int:
        return next((client for client, known in self._nodes.items() if known == node), node)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        ordered = in_order(replies)
        result = super().aggregate_train(server_round, ordered)
        if self.state is not None:
            self.state = self.selector.update(self.state, self._outcome(server_round, ordered))
        return result

    def _outcome(self, server_round: int, replies: Sequence[Message]) -> RoundOutcome:
        """What the selector declared that it needs, and nothing else."""
        needs = self.selector.needs
        outcome = RoundOutcome(
            server_round,
            self._cohort,
            losses=_reported(replies, "train-loss") if "losses" in needs else {},
            square_losses=_reported(replies, SQUARE_LOSS) if "square_losses" in needs else {},
            durations=self.selection.durations or {},
            updates=self._updates(server_round, replies),
        )
        if self._contribution is None:
            return outcome
        outcome = replace(outcome, values=dict(self._contribution(outcome)))
        self.selection = replace(self.selection, values=outcome.values)
        return outcome

    def _updates(self, server_round: int, replies: Sequence[Message]) -> dict[int, Observation]:
        sent, self._sent = self._sent, {}
        return {
            client_of(reply): observation(server_round, sent[reply.metadata.src_node_id], reply, self._decode)
            for reply in replies
            if reply.has_content() and reply.metadata.src_node_id in sent
        }


class _Narrow:
    """A grid with fewer nodes; all else is the grid's own."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid = grid
        self._chosen = nodes

    def get_node_ids(self) -> Iterable[int]:
        return list(self._chosen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


def _candidates(
    grid: Grid, selector: Selector | Choosing, durations: Durations | None
) -> tuple[dict[int, int], list[Profile]]:
    """Profiles by query where the selector needs what is in them; on a simulated grid nodes are clients already."""
    if not selector.needs & {"examples", "label_counts"} and getattr(grid, "nodes_are_clients", False):
        clients = list(grid.get_node_ids())
        nodes, candidates = {client: client for client in clients}, [Profile(client, 0) for client in clients]
    else:
        nodes, candidates = profiles(grid)
    if "label_counts" not in selector.needs:
        candidates = [replace(profile, label_counts=None) for profile in candidates]
    if durations is not None:
        candidates = [replace(profile, duration=durations(profile.client, None)) for profile in candidates]
    return nodes, candidates


def _reported(replies: Iterable[Message], key: str) -> dict[int, float]:
    return {
        client_of(reply): float(cast("float", metrics[key]))
        for reply in replies
        if reply.has_content()
        for metrics in records(reply, MetricRecord)
        if key in metrics
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

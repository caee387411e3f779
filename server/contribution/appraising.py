"""The strategy wrapper that appraises a round: what each client's update was worth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim import seeding
from fedsim.arrays import Decoder, from_record
from fedsim.protocol import Arrays
from server.contribution.coalitions import Update
from server.contribution.estimators import Estimator
from server.contribution.game import Remembered, Values
from server.contribution.rounds import one_round
from server.contribution.validation import Validator
from server.wrapping import Wrapped, client_of, records


class Appraising(Wrapped):
    """Find what each client of a round contributed, beside any Flower ``Strategy``.

    Messages and replies go on as they came. The values are there before the strategy around this one hears of
    the round's end, so that a selector can go by them.

    Args:
        strategy: the strategy that does the work.
        estimator: how values are found.
        validator: scores the coalitions' models.
        every: rounds between appraisals; the first one and each ``every``-th after it are appraised.
        seed: of the experiment.
        step: what a gradient is multiplied by to make it an update of FedSGD; a server optimiser's moments are
            left out of account.
        buffers: names of arrays that are values, not gradients, in every reply.
        weighted_by_key: the metric that holds the number of examples.

    Attributes:
        needs: what the server must see or hold: it rules secure aggregation out, and takes labelled images.
        appraised: what came of the last round; ``None`` where none was due.
    """

    needs: ClassVar[frozenset[Literal["updates", "examples", "validation"]]] = frozenset(
        {"updates", "examples", "validation"}
    )

    def __init__(
        self,
        strategy: Strategy,
        estimator: Estimator,
        validator: Validator,
        *,
        every: int = 1,
        seed: int = 0,
        step: float = 1.0,
        buffers: Collection[str] = (),
        weighted_by_key: str = "num-examples",
    ) -> None:
        super().__init__(strategy)
        self.appraised: Values[int] | None = None
        self._estimator = estimator
        self._validator = validator
        self._every = every
        self._seed = seed
        self._step = step
        self._buffers = frozenset(buffers)
        self._weighted_by_key = weighted_by_key
        self._decode = Decoder()
        self._before: Arrays = {}
        self._start: Arrays = {}
        self._sums: dict[int, Update] = {}

    def state_dict(self) -> Mapping[str, Any]:
        """What appraisals of a whole run need of the rounds before."""
        return {
            "start": dict(self._start),
            "sums": {client: dict(update.arrays) for client, update in self._sums.items()},
            "examples": {client: update.examples for client, update in self._sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._start = state["start"]
        self._sums = {client: Update(arrays, state["examples"][client]) for client, arrays in state["sums"].items()}

    def values(self) -> Mapping[int, float]:
        return self.appraised.values if self.appraised else {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._before = self._decode(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = list(replies)
        self.appraised = self._appraise(server_round, received)
        return super().aggregate_train(server_round, received)

    def _appraise(self, server_round: int, replies: list[Message]) -> Values[int] | None:
        due = (server_round - 1) % self._every == 0
        if not due and not self._estimator.whole_run:
            return None
        updates = updates_of(
            self._before, replies, step=self._step, buffers=self._buffers, weighted_by_key=self._weighted_by_key
        )
        before = self._before
        if self._estimator.whole_run:
            self._start = self._start or before
            self._sums = one_round([self._sums, updates])
            before, updates = self._start, dict(sorted(self._sums.items()))
        if not due or not updates:
            return None
        seed = seeding.derive(self._seed, "contribution", "round", server_round)
        utility = Remembered(self._validator.utility(before, updates))
        found = self._estimator(list(updates), utility, seed=seed)
        nobody, everybody = (utility.known.get(coalition) for coalition in (frozenset[int](), frozenset(updates)))
        return replace(found, before=nobody, after=everybody)


def updates_of(
    before: Arrays,
    replies: Iterable[Message],
    *,
    step: float = 1.0,
    buffers: Collection[str] = (),
    weighted_by_key: str = "num-examples",
) -> dict[int, Update]:
    """What each client's training changed, by client in ascending order, from what it sent.

    Args:
        before: the global model's state that the clients were sent.
        replies: of clients that answered well.
        step: what a gradient is multiplied by to make it an update.
        buffers: names of arrays that are values, not gradients, in every reply.
        weighted_by_key: the metric that holds the number of examples.
    """
    found = {}
    for reply in replies:
        if reply.has_content():
            said = reply.content.config_records.get("client", ConfigRecord())
            received = from_record(records(reply, ArrayRecord)[0])
            metrics = next(iter(records(reply, MetricRecord)), MetricRecord())
            gradients = received.keys() - set(buffers) if said.get("kind") == "gradient" else set()
            arrays = {name: _change(before[name], received[name], name in gradients, step) for name in before}
            found[client_of(reply)] = Update(arrays, int(cast("float", metrics.get(weighted_by_key, 1))))
    return dict(sorted(found.items()))


def appraisal(strategy: Strategy) -> Values[int] | None:
    """The last round's values, of the wrapper among a strategy's that finds any."""
    while isinstance(strategy, Wrapped):
        if isinstance(strategy, Appraising):
            return strategy.appraised
        strategy = strategy.inner
    return None


def _change(before: Tensor, received: Tensor, is_gradient: bool, step: float) -> Tensor:
    return -step * received if is_gradient else received - before

"""The exponential moving average of the global model, which is evaluated in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.arrays import from_record, to_record
from fedsim.protocol import Arrays
from server.wrapping import Wrapped


class Averaging(Wrapped):
    """Any Flower ``Strategy``, unchanged, and beside it the moving average of its global models.

    After round n it is ``d average + (1 - d) global`` with ``d = min(decay, (1 + n) / (10 + n))``, so that the first
    models, which are far off, are forgotten soon (as TensorFlow's ``ExponentialMovingAverage`` does with
    ``num_updates``). Clients are sent the global model itself. Integers, such as counters, are those of the last
    model.

    Args:
        strategy: what trains.
        decay: in [0, 1); 0 is the global model itself.
        initial: the global arrays before round 1.
    """

    def __init__(self, strategy: Strategy, decay: float, initial: Arrays) -> None:
        super().__init__(strategy)
        self._decay, self._rounds = decay, 0
        self.average: dict[str, Tensor] = dict(initial)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None:
            self._rounds += 1
            share = min(self._decay, (1 + self._rounds) / (10 + self._rounds))
            self.average = {
                name: new.lerp(old, share)
                if (old := self.average[name]).is_floating_point()
                else new.round().to(old.dtype)
                for name, new in from_record(arrays).items()
            }
        return arrays, metrics

    def record(self) -> ArrayRecord:
        """The average, as Flower's strategies take models."""
        return to_record(self.average)

    def state_dict(self) -> Mapping[str, Any]:
        """The average, and over how many rounds it is."""
        return {"rounds": self._rounds, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._rounds, self.average = state["rounds"], dict(state["average"])

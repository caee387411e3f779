"""Central evaluation: the global model on held-out data that belongs to no client."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord
from torch import nn

from clients import training
from fedsim.arrays import from_record
from fedsim.data import Images


def central_evaluation(
    model: nn.Module, data: Images, normalisation: training.Normalisation
) -> Callable[[int, ArrayRecord], MetricRecord]:
    """An ``evaluate_fn`` as Flower's strategies take it: loss and accuracy on ``data``.

    Args:
        model: a network to load the global arrays into, on the device to compute on.
        data: held-out images.
        normalisation: per-channel mean and standard deviation.
    """

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        training.load(model.state_dict(), from_record(arrays))
        found = training.evaluate(model, data, normalisation)
        return MetricRecord({"test-loss": found["loss"], "test-accuracy": found["accuracy"]})

    return evaluate

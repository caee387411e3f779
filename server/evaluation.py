"""Central evaluation: the global model on held-out data that belongs to no client."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord
from torch import nn

from clients import training
from fedsim.arrays import from_record
from fedsim.data import Images
from fedsim.tasks import Normalisation, Task


def central_evaluation(
    model: nn.Module, data: Images, normalisation: Normalisation, task: Task = training.CLASSIFICATION
) -> Callable[[int, ArrayRecord], MetricRecord]:
    """An ``evaluate_fn`` as Flower's strategies take it: the task's metrics on ``data``.

    Args:
        model: a network to load the global arrays into, on the device to compute on.
        data: held-out images.
        normalisation: per-channel mean and standard deviation.
        task: what is trained.
    """

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        training.load(model.state_dict(), from_record(arrays))
        found = training.evaluate(model, data, normalisation, task=task)
        return MetricRecord({f"test-{metric}": value for metric, value in found.items()})

    return evaluate

"""Central evaluation: the global model on held-out data that belongs to no client, and by what it draws."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord
from torch import nn

from clients import training
from fedsim.arrays import from_record
from fedsim.data import Images
from fedsim.models import InputShape
from fedsim.tasks import Normalisation, Task
from server.quality import Quality


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


def drawing_evaluation(
    model: nn.Module, task: Task, input_shape: InputShape, quality: Quality, *, count: int, seed: int
) -> Callable[[int, ArrayRecord], MetricRecord]:
    """An ``evaluate_fn`` that judges what the global model draws; in every round from the same noise.

    Args:
        model: a network to load the global arrays into, on the device to compute on.
        task: what is trained, which draws images.
        input_shape: channels, height, width.
        quality: the judge.
        count: images drawn.
        seed: of what they are drawn from.
    """

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        training.load(model.state_dict(), from_record(arrays))
        drawn = task.samples(model, input_shape, seed=seed, count=count)
        return MetricRecord({} if drawn is None else {f"test-{name}": value for name, value in quality(drawn).items()})

    return evaluate

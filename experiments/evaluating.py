"""What is measured of the global model of an experiment, and when."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord

from experiments.experiment import Experiment
from server.evaluation import central_evaluation, drawing_evaluation
from server.features import classifier_features, scaled
from server.quality import MEASURES, Quality

REAL = 1_000
"""Held-out images that drawn ones are compared with, at most."""

Evaluate = Callable[[int, ArrayRecord], MetricRecord]


def measured_by(experiment: Experiment) -> tuple[str, ...]:
    """Names of what is measured."""
    return (*experiment.task.metrics, *(MEASURES if experiment.config.quality else ()))


def evaluation(experiment: Experiment) -> Evaluate:
    """The task's metrics on held-out images, and in some rounds the quality of what the model draws."""
    network = experiment.model().to(experiment.device)
    measure = central_evaluation(network, experiment.test, experiment.normalisation, experiment.task)
    table = experiment.config.quality
    if table is None:
        return measure
    quality = Quality(
        classifier_features(experiment.data.train, experiment.config.seed),
        scaled(experiment.test.images[:REAL]),
        table.neighbours,
    )
    judge = drawing_evaluation(
        network,
        experiment.task,
        experiment.data.input_shape,
        quality,
        count=table.samples,
        seed=experiment.config.seed,
    )
    rounds = experiment.config.training.rounds

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        found = measure(number, arrays)
        if number and (number in (1, rounds) or number % table.every == 0):
            found = MetricRecord({**found, **judge(number, arrays)})
        return found

    return evaluate

"""The server's side of an experiment: who aggregates, who is chosen, and who finds what each contributed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from fedsim import models
from fedsim.errors import invalid
from server import STRATEGIES, Selective
from server.contribution import ESTIMATORS, Appraising, Validator
from server.selection import RoundOutcome

if TYPE_CHECKING:
    from experiments.experiment import Experiment


def strategy_of(experiment: Experiment) -> Selective:
    """The aggregation strategy, narrowed to the clients that the selector chooses."""
    selector, aggregation = experiment.selector(), aggregation_of(experiment)
    appraising = _appraising(experiment, aggregation)
    if "values" in selector.needs and appraising is None:
        raise invalid(
            "selection.name",
            experiment.config.selection.name,
            "goes by what clients contributed, and nothing finds that",
            'Add a [contribution] table, with name = "gtg" for instance',
        )

    if "accuracies" in selector.needs:
        _measuring(experiment, "selection.name", experiment.config.selection.name, "accuracy")

    def values(outcome: RoundOutcome) -> Mapping[int, float]:  # noqa: ARG001  (it was appraised on its way in)
        return appraising.values() if appraising else {}

    return Selective(
        appraising or aggregation,
        selector,
        clients_per_round=experiment.config.selection.clients_per_round,
        seed=experiment.config.seed,
        durations=experiment.duration,
        contribution=values,
    )


def _measuring(experiment: Experiment, field: str, value: str, metric: str) -> None:
    """Refuse what goes by a metric that the task does not have."""
    told = experiment.task.metrics
    if metric not in told:
        raise invalid(
            field,
            value,
            f"goes by {metric}, and the task {experiment.config.task.name!r} tells {' and '.join(told)}",
            "Choose another",
        )


def _appraising(experiment: Experiment, strategy: Strategy) -> Appraising | None:
    table = experiment.config.contribution
    if table is None:
        return None
    estimator = ESTIMATORS.create(table.name, **table.parameters)
    _measuring(experiment, "contribution.metric", table.metric, table.metric)
    if experiment.validation is None:
        raise invalid(
            "contribution",
            table.name,
            "the server has no images to judge updates by",
            "Set data.validation_size, to 1000 for instance; they are taken from the test split",
        )
    clients = experiment.config.data.clients
    playing = clients if estimator.whole_run else experiment.config.selection.clients_per_round or clients
    if estimator.most_players is not None and playing > estimator.most_players:
        raise invalid(
            "contribution.name",
            table.name,
            f"would evaluate 2^{playing} models for {playing} clients, and takes {estimator.most_players} at most",
            'Use "gtg", or fewer clients',
        )
    training = experiment.config.training
    given = training.strategy.parameters if training.strategy else {}
    network = experiment.model().to(experiment.device)
    return Appraising(
        strategy,
        estimator,
        Validator(network, experiment.validation, experiment.normalisation, table.metric, task=experiment.task),
        every=table.every,
        seed=experiment.config.seed,
        step=float(given.get("learning_rate", training.learning_rate)),
        buffers=models.buffer_names(network),
    )


def aggregation_of(experiment: Experiment) -> Strategy:
    """What the clients' replies are put together by, whoever is chosen."""
    training = experiment.config.training
    name = training.strategy.name if training.strategy else training.algorithm
    given = training.strategy.parameters if training.strategy else {}
    if (name == "fedsgd") != (training.algorithm == "fedsgd"):
        raise invalid(
            "training.strategy.name",
            name,
            f"cannot aggregate what algorithm = {training.algorithm!r} sends",
            "Use the strategy fedsgd with the algorithm fedsgd, and only then",
        )
    # Whom to train is the selector's choice, and Flower's defaults would wait for a second client.
    offered: dict[str, Any] = {
        "min_train_nodes": 1,
        "min_available_nodes": 1,
        "min_evaluate_nodes": 1 if training.client_evaluation else 0,
        "fraction_evaluate": 1.0 if training.client_evaluation else 0.0,
        "learning_rate": training.learning_rate,  # of FedSGD's server optimiser
        "client_learning_rate": training.learning_rate,  # QFedAvg's 1 / L
        "train_loss_key": "train-loss",
        "buffers": models.buffer_names(experiment.model()),
    }
    accepted = inspect.signature(STRATEGIES.factory(name)).parameters
    return STRATEGIES.create(name, **{key: value for key, value in offered.items() if key in accepted} | given)

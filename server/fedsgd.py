"""FedSGD: clients send gradients, the server steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedsim.arrays import from_record, to_record

Optimiser = Literal["sgd", "adam"]


class FedSGD(FedAvg):
    """Step a server optimiser along the mean of the clients' gradients, weighted by examples.

    McMahan et al., AISTATS 2017, arXiv:1602.05629, section 2: ``w <- w - eta * sum_k (n_k / n) g_k``.
    With all clients, full batches and plain SGD this is one step of central gradient descent.

    Args:
        learning_rate: of the server optimiser.
        optimiser: ``sgd`` or ``adam``, from ``torch.optim``.
        momentum: of ``sgd``.
        buffers: names of arrays that are values and not gradients (batch-norm statistics); the new
            value is the clients' mean.
        fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes: as in
            Flower's ``FedAvg``.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        optimiser: Optimiser = "sgd",
        momentum: float = 0.0,
        buffers: Sequence[str] = (),
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        super().__init__(fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes)
        self.learning_rate = learning_rate
        self.optimiser = optimiser
        self.momentum = momentum
        self.buffers = frozenset(buffers)
        self._current: dict[str, Tensor] = {}
        self._optimiser: torch.optim.Optimizer | None = None

    def state_dict(self) -> Mapping[str, Any]:
        """The arrays that the optimiser steps, and its moments."""
        moments = None if self._optimiser is None else self._optimiser.state_dict()
        return {"current": dict(self._current), "optimiser": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._current = dict(state["current"])
        if state["optimiser"] is not None:
            self._optimiser = self._make_optimiser()
            self._optimiser.load_state_dict(state["optimiser"])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        arriving = from_record(arrays)
        if self._current.keys() != arriving.keys():
            self._current = arriving
            self._optimiser = self._make_optimiser()
        else:  # the optimiser's state belongs to these tensors: keep them, take the values
            for name, tensor in arriving.items():
                self._current[name].copy_(tensor)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None or self._optimiser is None:
            return None, metrics
        for name, tensor in from_record(mean).items():
            if name in self.buffers:
                self._current[name].copy_(tensor)
            else:
                self._current[name].grad = tensor
        self._optimiser.step()
        return to_record(self._current), metrics

    def _make_optimiser(self) -> torch.optim.Optimizer:
        trained = [tensor for name, tensor in self._current.items() if name not in self.buffers]
        if self.optimiser == "adam":
            return torch.optim.Adam(trained, self.learning_rate)
        return torch.optim.SGD(trained, self.learning_rate, momentum=self.momentum)

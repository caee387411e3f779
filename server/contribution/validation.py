"""The utility of a coalition in federated learning: how its model does on images that the server holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsim.data import Images, normalised
from fedsim.protocol import Arrays
from fedsim.tasks import Occasion, Task
from fedsim.tasks.classification import Classification
from server.contribution.coalitions import Coalitions, Update
from server.contribution.game import P

Metric = Literal["loss", "accuracy"]

_IMAGES_AT_ONCE = 250
"""Few enough for a small network's activations to stay in the cache."""


class Validator:
    """Scores models on the server's own labelled images.

    Args:
        network: whose states are scored, on the device to compute on; its own state is left alone.
        data: held out from every client's training and from the test set.
        normalisation: per-channel mean and standard deviation.
        metric: ``loss`` scores minus the mean loss, ``accuracy`` the share of images right.
        at_once: models computed side by side, by ``torch.func.vmap``; by default 1 on the CPU, where one after
            the other is faster, and 16 elsewhere.
        task: what the network does, by whose metrics it is scored.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Images,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        metric: Metric = "loss",
        at_once: int | None = None,
        task: Task | None = None,
    ) -> None:
        self.network = network.eval()
        self.metric = metric
        self.task: Task = task or Classification()
        self.device = next(network.parameters()).device
        self.at_once = at_once or (1 if self.device.type == "cpu" else 16)
        inputs = normalised(data.images.to(self.device), *normalisation)
        labels = data.labels.to(self.device)
        parts = zip(torch.split(inputs, _IMAGES_AT_ONCE), torch.split(labels, _IMAGES_AT_ONCE), strict=True)
        self._batches = [self.task.pose(x, y, Occasion(step=step)) for step, (x, y) in enumerate(parts)]
        self._examples = len(data)

    def utility(self, before: Arrays, updates: Mapping[P, Update]) -> UpdateUtility[P]:
        """What coalitions of a round are worth.

        Args:
            before: the global model's state before the round.
            updates: what each client's training changed.

        Raises:
            FedsimError: an update without examples, or with other arrays than ``before``.
        """
        return UpdateUtility(self, Coalitions(before, updates, self.device))

    @torch.no_grad()
    def scores(self, states: Mapping[str, Tensor]) -> list[float]:
        """The score of each model, from their states stacked, ``[models, ...]`` an array."""
        models = len(next(iter(states.values())))
        total = torch.zeros(models, dtype=torch.float64, device=self.device)
        for inputs, labels in self._batches:
            total += torch.stack([self._score(logits, labels) for logits in self._logits(states, models, inputs)])
        return [float(score) for score in total / self._examples]

    def _logits(self, states: Mapping[str, Tensor], models: int, inputs: Tensor) -> Tensor:
        """[models, images, classes]."""
        if models == 1:
            return self._forward({name: stacked[0] for name, stacked in states.items()}, inputs)[None]
        found: Tensor = vmap(self._forward, in_dims=(0, None))(dict(states), inputs)
        return found

    def _forward(self, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, state, (inputs,))
        return logits

    def _score(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = self.task.total(self.metric, logits, labels).double()
        return -total if self.metric == "loss" else total


class UpdateUtility(Generic[P]):
    """What coalitions of one round are worth; see ``Validator.utility``."""

    def __init__(self, validator: Validator, coalitions: Coalitions[P]) -> None:
        self._validator = validator
        self._coalitions = coalitions

    def __call__(self, coalition: frozenset[P]) -> float:
        return self.many([coalition])[0]

    def many(self, coalitions: Sequence[frozenset[P]]) -> list[float]:
        """What each coalition is worth."""
        at_once = self._validator.at_once
        chunks = [coalitions[i : i + at_once] for i in range(0, len(coalitions), at_once)]
        return [score for chunk in chunks for score in self._validator.scores(self._coalitions.models(chunk))]

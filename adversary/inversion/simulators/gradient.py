"""One gradient at the weights that were sent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversary.inversion.schedule import granted_order
from adversary.inversion.simulator import Simulation
from adversary.network import CLASSIFICATION, NO_DRAWS, Weights, gradients_behind, loss_gradient, place
from fedsim.protocol import Knowledge, Observation
from fedsim.tasks import Draws, Task


@dataclass(frozen=True)
class SingleGradient:
    """One gradient of the task's mean loss at the weights that were sent, by the random numbers that are granted.

    Exact for an update of one step. An update of several is taken for a multiple of one gradient over all
    the client's examples.
    """

    def bind(
        self,
        network: nn.Module,
        observation: Observation,
        knowledge: Knowledge,
        device: torch.device | str,
    ) -> Simulation:
        weights = place(network, observation.sent, device)
        draws = Draws(*(None if drawn is None else drawn.to(device) for drawn in knowledge.draws()))
        return BoundGradient(network, weights, gradients_behind(observation, weights), None, knowledge.task, draws)


@dataclass(frozen=True)
class PooledGradient:
    """AGIC's approximation: one gradient, at the weights sent, of all examples in all local mini-batches.

    Expanding every step at the weights sent, ``Delta / eta = sum_j grad L(w^0; X[S_j], Y[S_j]) + O(eta tau^2)``:
    an example weighs as the shares it had in the batches it was in. Where the order of batches is not known
    all weigh alike, as they do on average over orders; the client's smaller last batches then go unnoticed.
    The cost does not depend on the number of local steps.

    Attributes:
        order_known: whether the adversary is granted the order of batches, and weighs examples by it.
    """

    order_known: bool = False

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Simulation:
        weights = place(network, observation.sent, device)
        importance = None
        if self.order_known and observation.kind == "model":
            importance = shares(granted_order(knowledge, observation), observation.examples, device)
        return BoundGradient(network, weights, gradients_behind(observation, weights), importance)


@dataclass(frozen=True)
class BoundGradient:
    """A gradient at fixed weights, for one observation: ``x, y -> grad L(w; x, y)`` with the graph kept.

    Attributes:
        network: in the client's mode.
        weights: where the gradient is taken.
        target: the update as a mean gradient.
        importance: share of each example, [N]; ``None`` for equal shares.
        task: whose loss it is of.
        draws: the random numbers by which the task poses the batch, on the device.
    """

    network: nn.Module
    weights: Weights
    target: list[Tensor]
    importance: Tensor | None = None
    task: Task = CLASSIFICATION
    draws: Draws = NO_DRAWS

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        return loss_gradient(
            self.network, self.weights, inputs, labels, self.importance, task=self.task, draws=self.draws
        )


def shares(order: tuple[Tensor, ...], examples: int, device: torch.device | str) -> Tensor | None:
    """How much each example weighs in the sum of all steps' mean losses, [N], summing to 1; ``None`` if all alike."""
    found = torch.zeros(examples, dtype=torch.float64)
    for batch in order:
        found[batch] += 1 / len(batch)
    found /= len(order)
    alike = bool((found - 1 / examples).abs().max() < 1e-12)  # rounding apart
    return None if alike else found.float().to(device)

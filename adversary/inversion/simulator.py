"""What update would these inputs cause? Differentiable in the inputs and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary.network import Weights, gradients_behind, logits, place
from fedsim.protocol import Knowledge, Observation


class Simulation(Protocol):
    """A simulator bound to one observation."""

    @property
    def target(self) -> list[Tensor]:
        """What was observed, tensors on the device, in the form that calls return."""

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """The update that inputs would cause, to be compared with ``target``.

        Args:
            inputs: as the network is fed, [N, C, H, W].
            labels: int64 [N], or probabilities [N, classes].
        """


class Simulator(Protocol):
    """Makes simulations: binds a network and an observation once, for many evaluations."""

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Simulation:
        """Everything that does not depend on the candidate, worked out."""


@dataclass(frozen=True)
class SingleGradient:
    """One gradient of the mean cross-entropy at the weights that were sent.

    Exact for an update of one step. An update of several is taken for a multiple of one gradient over all
    the client's examples.
    """

    def bind(
        self,
        network: nn.Module,
        observation: Observation,
        knowledge: Knowledge,  # noqa: ARG002  (unrolling simulators read the batch order)
        device: torch.device | str,
    ) -> Simulation:
        weights = place(network, observation.sent, device)
        return BoundGradient(network, weights, gradients_behind(observation, weights))


@dataclass(frozen=True)
class BoundGradient:
    """``SingleGradient`` of one observation: ``w -> grad L(w; x, y)`` with the graph kept."""

    network: nn.Module
    weights: Weights
    target: list[Tensor]

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        loss = functional.cross_entropy(logits(self.network, self.weights, inputs), labels)
        return list(torch.autograd.grad(loss, list(self.weights.parameters.values()), create_graph=True))

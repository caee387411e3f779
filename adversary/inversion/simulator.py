"""What update would these inputs cause? Differentiable in the inputs and labels."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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
    ) -> Simulation | Searching:
        """Everything that does not depend on the candidate, worked out."""


@runtime_checkable
class Searching(Protocol):
    """A simulation with an unknown of its own, which is searched for along with the inputs."""

    @property
    def target(self) -> list[Tensor]:
        """As that of a ``Simulation``."""

    def start(self) -> Tensor:
        """Where the search for the unknown begins, on the device.

        In such units that a change of 1 is to the unknown what a change of 1 is to an input.
        """

    def project(self, unknown: Tensor) -> None:
        """Put the unknown back among its valid values, in place."""

    def at(self, unknown: Tensor) -> Simulation:
        """The simulation with its unknown set, differentiable in it."""


@runtime_checkable
class Renewing(Protocol):
    """A simulation whose target is worked out anew as the search goes on."""

    def renew(self, inputs: Tensor, labels: Tensor, iteration: int) -> None:
        """Set the target for the next iterations, if it is time; iteration 0 begins a search.

        Args:
            inputs: of the candidate now, without a graph.
            labels: int64 [N], or probabilities [N, classes].
            iteration: evaluations of the objective so far.
        """


@runtime_checkable
class Copying(Protocol):
    """A simulation that is given several copies of all inputs, one after the other: [copies * N, C, H, W]."""

    @property
    def copies(self) -> int:
        """How many; the labels [N] are those of each."""


def copies_in(simulation: object) -> int:
    """Copies of the inputs that a simulation asks for; 1 unless it says otherwise."""
    return simulation.copies if isinstance(simulation, Copying) else 1

"""One gradient in place of the client's whole training, and what that leaves out put back as the search goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from adversary.inversion.schedule import plan_of
from adversary.inversion.simulator import Simulation
from adversary.inversion.simulators.gradient import BoundGradient, SingleGradient
from adversary.inversion.simulators.path import PathGradient
from adversary.inversion.simulators.unrolled import BoundUnrolled, Unrolled
from fedsim.protocol import Knowledge, Observation


@dataclass(frozen=True)
class Corrected:
    """Defect correction: a cheap model G of the client's training F is fitted to ``Delta + G(x_k) - F(x_k)``.

    ``F(x) = Delta`` is what is to be solved, and F, the client's training replayed step by step, is dear to
    differentiate. G is one gradient at a point of the known way from the weights sent to those received. At the
    current candidate ``x_k`` both are evaluated, F without derivatives, and what G leaves out, ``F(x_k) - G(x_k)``,
    is taken off the target; every so many iterations that is done anew. Where the search comes to rest, at
    ``x_k = x``, ``G(x) = Delta + G(x) - F(x)``, so that ``F(x) = Delta``: the error of G is gone, whatever G is.
    (Defect or deferred correction: Stetter, Numer. Math. 29, 1978; here for an inverse problem.)

    An iteration costs one gradient and its derivative, as AGIC's does, and every ``every``-th a replay on top.

    Attributes:
        exact: F, of which the batch order counts.
        approximate: G.
        every: iterations between corrections.
    """

    exact: Unrolled = field(default_factory=lambda: Unrolled("pooled"))
    approximate: PathGradient = field(default_factory=PathGradient)
    every: int = 25

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Simulation:
        if observation.kind == "gradient" or plan_of(observation).steps(observation.examples) == 1:
            return SingleGradient().bind(network, observation, knowledge, device)
        exact = self.exact.bind(network, observation, knowledge, device)
        if not isinstance(exact, BoundUnrolled) or exact.copies > 1:
            raise ValueError("Corrected takes an Unrolled of one copy of the inputs")
        approximate = self.approximate.bind(network, observation, knowledge, device)
        return BoundCorrected(replace(exact, differentiable=False), approximate, self.every)


class BoundCorrected:
    """``Corrected`` of one observation.

    Args:
        exact: F, without derivatives.
        approximate: G.
        every: iterations between corrections.
    """

    def __init__(self, exact: BoundUnrolled, approximate: BoundGradient, every: int) -> None:
        self.exact = exact
        self.approximate = approximate
        self.every = every
        self.target = approximate.target
        self._corrected_at = 0

    def __call__(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        return self.approximate(inputs, labels)

    def renew(self, inputs: Tensor, labels: Tensor, iteration: int) -> None:
        """Correct the target at these inputs, if it is time."""
        if 0 < iteration < self._corrected_at + self.every:
            return
        self._corrected_at = iteration
        left_out = zip(self.exact(inputs, labels), self.approximate(inputs, labels), strict=True)
        errors = [(f - g).detach() for f, g in left_out]
        self.target = [t - error for t, error in zip(self.approximate.target, errors, strict=True)]

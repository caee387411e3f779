"""One gradient at a point between the weights sent and the weights received."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversary.inversion.simulators.gradient import BoundGradient
from adversary.network import Weights, gradients_behind, momentum_gain, place
from fedsim.protocol import Knowledge, Observation


@dataclass(frozen=True)
class PathGradient:
    """One gradient at ``(1 - a) w^0 + a w^tau``, a fixed.

    The client's gradients were taken along the way from ``w^0`` to ``w^tau``. Were they an affine function of
    the weights and every step of the full batch, their mean would be the gradient at the mean of the
    iterates, which lies near the middle of the way. The cost is that of ``SingleGradient``, which is ``a = 0``.

    Attributes:
        at: a, in [0, 1]; ``None`` for ``mean_position`` of the plan, or 1/2 where no plan was sent.
    """

    at: float | None = None

    def bind(
        self,
        network: nn.Module,
        observation: Observation,
        knowledge: Knowledge,  # noqa: ARG002
        device: torch.device | str,
    ) -> BoundGradient:
        sent = place(network, observation.sent, device)
        at = mean_position(observation) if self.at is None else self.at
        point = _between(sent, _way(observation, sent), at)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in point.parameters.items()}
        return BoundGradient(network, Weights(leaves, point.buffers), gradients_behind(observation, sent))


@dataclass(frozen=True)
class LearnedPath:
    """SME's surrogate: one gradient at ``(1 - a) w^0 + a w^tau``, a learned along with the inputs.

    Zhu, Yao, Blaschko, ICML 2023, arXiv:2306.00127; in code: JunyiZhu-AI/surrogate_model_extension.

    Attributes:
        start: a at first.
        step: how far a moves while an input moves by 1. The search moves ``(a - start) / step`` with the
            same step size as the inputs; so Adam's 0.001 for a beside its 1 for the inputs is ``step = 0.001``.
    """

    start: float = 0.5
    step: float = 0.001

    def bind(
        self,
        network: nn.Module,
        observation: Observation,
        knowledge: Knowledge,  # noqa: ARG002
        device: torch.device | str,
    ) -> BoundPath:
        sent = place(network, observation.sent, device)
        target = gradients_behind(observation, sent)
        return BoundPath(network, sent, _way(observation, sent), target, self.start, self.step)


@dataclass(frozen=True)
class BoundPath:
    """``LearnedPath`` of one observation.

    Attributes:
        network: in the client's mode.
        sent: ``w^0``.
        way: ``w^tau - w^0``, tensors in the network's order.
        target: the update as a mean gradient.
        begin: a at first.
        step: units of the unknown.
    """

    network: nn.Module
    sent: Weights
    way: list[Tensor]
    target: list[Tensor]
    begin: float
    step: float

    def start(self) -> Tensor:
        return torch.zeros((), device=self.target[0].device)

    def project(self, unknown: Tensor) -> None:
        with torch.no_grad():
            unknown.clamp_(-self.begin / self.step, (1 - self.begin) / self.step)

    def position(self, unknown: Tensor) -> Tensor:
        """The a that an unknown stands for, a scalar in [0, 1]."""
        return (self.begin + self.step * unknown).clamp(0, 1)

    def at(self, unknown: Tensor) -> BoundGradient:
        weights = _between(self.sent, self.way, self.position(unknown))
        return BoundGradient(self.network, weights, self.target)


def mean_position(observation: Observation) -> float:
    """Where on the way from the weights sent to those received the client's gradients were taken, on average.

    With gradients that stay the same, step j begins at ``gain(j) / gain(tau)`` of the way, and its gradient
    goes into the update ``gain(tau - j) - gain(tau - j - 1)`` times (``gain``: ``momentum_gain``). Without
    momentum that is ``(tau - 1) / (2 tau)``: 0 for one step, near 1/2 for many. 1/2 where no plan was sent.
    """
    plan = observation.plan
    if observation.kind == "gradient":
        return 0.0
    if plan is None:
        return 0.5
    steps = plan.steps(observation.examples)
    gains = [momentum_gain(plan.momentum, step) for step in range(steps + 1)]
    return sum((gains[steps - j] - gains[steps - j - 1]) * gains[j] for j in range(steps)) / gains[steps] ** 2


def _way(observation: Observation, sent: Weights) -> list[Tensor]:
    """``w^tau - w^0``; zeros for a gradient, which was taken at the weights sent."""
    if observation.kind == "gradient":
        return [torch.zeros_like(tensor) for tensor in sent.parameters.values()]
    update = observation.update(sent.names())
    return [-change.to(tensor.device) for change, tensor in zip(update, sent.parameters.values(), strict=True)]


def _between(sent: Weights, way: list[Tensor], position: Tensor | float) -> Weights:
    moved = [tensor + position * change for tensor, change in zip(sent.parameters.values(), way, strict=True)]
    return Weights(dict(zip(sent.parameters, moved, strict=True)), sent.buffers)

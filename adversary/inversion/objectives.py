"""The objectives of many victims and their gradients at once, by ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.func import grad as gradient_of
from torch.nn import functional

from adversary.inversion.distance import Distance
from adversary.inversion.prior import Prior
from adversary.inversion.problem import InversionProblem
from adversary.inversion.simulators.gradient import BoundGradient
from adversary.inversion.unfolded import unfolded

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Inputs [V, N, C, H, W] to the objectives' gradients, of the same shape, and the objectives [V]."""


def objectives(distance: Distance, prior: Prior | None, problems: Sequence[InversionProblem]) -> Step:
    """Objectives and their gradients, all victims' at once."""
    simulations = [bound(problem) for problem in problems]
    network = unfolded(simulations[0].network, torch.zeros_like(problems[0].start(0).inputs))
    parameters = {
        name: torch.stack([s.weights.parameters[name].detach() for s in simulations])
        for name in simulations[0].weights.parameters
    }
    buffers = {
        name: torch.stack([s.weights.buffers[name] for s in simulations]) for name in simulations[0].weights.buffers
    }
    # One long vector a victim: few large operations in place of many small ones. To both distances it is the same.
    target = torch.stack([_vector(s.target) for s in simulations])
    labels = torch.stack([problem.labels for problem in problems if problem.labels is not None])
    mean, std = (
        torch.stack([torch.tensor(getattr(p.knowledge, name)).view(1, -1, 1, 1) for p in problems]).to(labels.device)
        for name in ("mean", "std")
    )

    def objective(
        x: Tensor,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        target: Tensor,
        y: Tensor,
        channels: tuple[Tensor, Tensor],
    ) -> Tensor:
        def loss(weights: dict[str, Tensor]) -> Tensor:
            # In train mode batch norm updates its running statistics: copies of them.
            own = {name: tensor.clone() for name, tensor in buffers.items()} if network.training else buffers
            return functional.cross_entropy(functional_call(network, {**weights, **own}, (x,)), y)

        simulated = gradient_of(loss)(parameters)
        value = distance([_vector(list(simulated.values()))], [target])
        return value if prior is None else value + prior(x * channels[1] + channels[0])

    together = vmap(grad_and_value(objective))
    return lambda x: together(x, parameters, buffers, target, labels, (mean, std))


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def bound(problem: InversionProblem) -> BoundGradient:
    """The simulation of a victim's single gradient."""
    (simulation,) = problem.simulations
    if not isinstance(simulation, BoundGradient):
        raise TypeError("a batch is made of single gradients")
    return simulation

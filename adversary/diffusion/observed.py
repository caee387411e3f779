"""The gradient of a diffusion loss of one example, and how far from it the gradient of a guess is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversary.diffusion.classes import read_classes
from adversary.network import build, gradients_behind, mode_of, place
from fedsim.diffusion import Objective
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation
from fedsim.tasks.diffusion import Diffusion
from fedsim.tasks.stepped import Stepped


class Told(nn.Module):
    """A network of noisy images and steps; one that is told classes is told that of the victim.

    Args:
        stepped: as the task builds it; parameters keep their names.
        label: int64 [1], or ``None`` if it is told none.
    """

    def __init__(self, stepped: Stepped, label: Tensor | None) -> None:
        super().__init__()
        self.network = stepped.network
        self.label = label

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """The answer [1, C, H, W]."""
        answer: Tensor = self.network(noisy, t, *([] if self.label is None else [self.label]))
        return answer


@dataclass(frozen=True, eq=False)
class Observed:
    """What is matched: a gradient, and the network that it is of, in the precision of the search.

    Attributes:
        network: of noisy images [1, C, H, W] and steps int64 [1], with the weights that were sent.
        gradients: observed, by the network's parameter names.
        objective: the loss.
        shape: of the noisy image, [1, C, H, W].
    """

    network: Told
    gradients: Mapping[str, Tensor]
    objective: Objective
    shape: tuple[int, ...]

    @property
    def like(self) -> Tensor:
        """An empty tensor of the type and on the device of the search."""
        return next(iter(self.gradients.values())).new_empty(0)

    def gap(self, answer: Tensor, residual: Tensor, weight: Tensor | float) -> Tensor:
        """``|g' - g|^2 / |g|^2`` with ``g' = (c / n) J^T rho'(r)``, the gradient of the guess; a scalar.

        For the squared error ``rho'(r) = 2 r``. Differentiable by what answer and residual come from; a residual
        without a graph of its own stays fixed.

        Args:
            answer: of ``network``, [1, C, H, W].
            residual: r, the answer less what it should be.
            weight: c of the step.
        """
        slope = 2 * residual if self.objective.error == "squared" else residual.clamp(-1, 1)
        names = list(self.gradients)
        parameters = dict(self.network.named_parameters())
        found = torch.autograd.grad(
            answer, [parameters[name] for name in names], slope * weight / answer.numel(), create_graph=True
        )
        wanted = [self.gradients[name] for name in names]
        apart = torch.stack([(one - other).square().sum() for one, other in zip(found, wanted, strict=True)]).sum()
        return apart / torch.stack([other.square().sum() for other in wanted]).sum()


def observed(
    observation: Observation, knowledge: Knowledge, *, device: torch.device | str = "cpu", dtype: torch.dtype
) -> Observed:
    """What an observation of one example is matched by.

    Args:
        observation: of the victim.
        knowledge: for network and loss.
        device: where to compute.
        dtype: of the search.

    Raises:
        FedsimError: the task is no diffusion, or its network was not built by the task.
    """
    network, task = build(knowledge, mode_of(observation.plan), device), knowledge.task
    if not isinstance(task, Diffusion) or not isinstance(network, Stepped):
        raise FedsimError(
            f"Knowledge.task = {type(task).__name__} with a network of type {type(network).__name__}: noisy images are "
            "searched for networks that the task diffusion builds. Choose another attack, or [task] name = 'diffusion'."
        )
    weights = place(network, observation.sent, device)
    network.load_state_dict(dict(weights.parameters) | dict(weights.buffers))
    received = zip(weights.names(), gradients_behind(observation, weights), strict=True)
    gradients = {name: gradient.to(dtype) for name, gradient in received}
    if not any(bool(gradient.any()) for gradient in gradients.values()):
        raise FedsimError("Observation.received is zero throughout: there is nothing to match. Choose another victim.")
    label = _label(network, weights.parameters, gradients, knowledge).to(device) if task.conditional else None
    return Observed(Told(network, label).to(dtype).eval(), gradients, task.goal, (1, *knowledge.input_shape))


def _label(
    network: Stepped, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], knowledge: Knowledge
) -> Tensor:
    """The class of the one example, as granted or else read."""
    if knowledge.labels is not None:
        return knowledge.labels
    return read_classes(network, parameters, gradients, 1)

"""Soteria: perturbation of the representation that the gradient of one layer tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, autograd, nn

from clients.defences.defence import DEFENCES, Site
from clients.gradients import Loss, StepRule, gradients_of
from fedsim.errors import FedsimError, invalid, nearest
from fedsim.protocol import TrainingPlan

_AT_ONCE = 64
"""Features whose derivatives are taken in one pass; bounds the memory."""


@DEFENCES.register("soteria")
@dataclass(frozen=True)
class Soteria:
    """Compute the gradient of one linear layer from a representation of which chosen features are zero.

    Sun, Li, Wang, Yang, Li, Chen, CVPR 2021, arXiv:2012.06043. Of the representation ``r = f(X)`` that enters the
    layer, the features are pruned whose loss moves the image most for the least of ``r``: those with the largest
    ``|r_i (d r_i / d X)^-1|``, taken as ``|r_i| / |d r_i / d X|`` as by the authors. With delta the gradient of the
    layer's outputs, its weight's gradient is ``sum_b delta_b r'_b^T / B``; all other gradients are as they were.

    As in the paper each example has a mask of its own. The code that its authors published has one for the batch,
    from ratios added up over it; it divides by ``r_i + 0.1`` and not by ``|r_i|``, which turns the order round where
    features are negative, and compares absolute values with a percentile of signed ones. After ReLU it counts dead
    features among those pruned, whose columns are zero in any case; here the share is of those that are not zero.
    Each step costs a backward pass a feature.
    With batch norm in training mode, derivatives are those of the whole batch.

    Attributes:
        share: of each example's features that are not zero, how many are pruned, in (0, 1).
        layer: name of a linear layer; the last one if empty.
    """

    share: float
    layer: str = ""

    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise invalid(
                "defence soteria: share", self.share, "must be in (0, 1)", "0.8 leaves a fifth of the features"
            )

    def check(self, model: nn.Module, plan: TrainingPlan) -> None:  # noqa: ARG002
        """Find what would fail later.

        Raises:
            FedsimError: the network has no such linear layer.
        """
        self._layer(model)

    def step(self, site: Site) -> StepRule:  # noqa: ARG002
        """The gradient of each step with the layer's from pruned representations."""

        def rule(
            model: nn.Module,
            inputs: Tensor,
            labels: Tensor,
            *,
            examples: int,  # noqa: ARG001
            loss: Loss,
        ) -> tuple[list[Tensor | None], Tensor]:
            layer = self._layer(model)
            seen: list[tuple[Tensor, Tensor]] = []
            hook = layer.register_forward_hook(lambda _, given, result: seen.append((given[0], result)))
            inputs = inputs.detach().requires_grad_()
            try:
                value = loss(model(inputs), labels)
            finally:
                hook.remove()
            if len(seen) != 1 or seen[0][0].ndim != 2:
                raise FedsimError("The defence 'soteria' needs a layer that is used once, on one vector an example.")
            r, z = seen[0]
            found = gradients_of(value, list(model.parameters()), keep_graph=True)
            (delta,) = autograd.grad(value, [z], retain_graph=True)
            kept = ~pruned(r.detach().float(), sensitivity(r, inputs), self.share)
            where = next(i for i, parameter in enumerate(model.parameters()) if parameter is layer.weight)
            found[where] = delta.to(layer.weight).T @ (r.detach() * kept).to(layer.weight)
            return found, value.detach()

        return rule

    def report(self, site: Site) -> Mapping[str, float]:  # noqa: ARG002
        """Nothing."""
        return {}

    def _layer(self, model: nn.Module) -> nn.Linear:
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if not linear:
            raise FedsimError(
                "The defence 'soteria' needs a linear layer, and the network has none. Choose another model."
            )
        if self.layer and self.layer not in linear:
            raise invalid("defence soteria: layer", self.layer, "is no linear layer", nearest(self.layer, linear))
        return linear[self.layer] if self.layer else list(linear.values())[-1]


def sensitivity(r: Tensor, inputs: Tensor) -> Tensor:
    """``|d r_bi / d X_b|`` of each feature of each example, [B, F].

    Args:
        r: [B, F], with the graph from the inputs; examples do not depend on each other.
        inputs: X, [B, ...].

    Raises:
        FedsimError: the features do not depend on the inputs.
    """
    norms = []
    for chosen in torch.split(torch.arange(r.shape[1]), _AT_ONCE):
        one_hot = torch.zeros(len(chosen), *r.shape, dtype=r.dtype, device=r.device)
        one_hot[torch.arange(len(chosen)), :, chosen] = 1
        (moved,) = autograd.grad(r, [inputs], one_hot, retain_graph=True, is_grads_batched=True, allow_unused=True)
        if moved is None:
            raise FedsimError(
                "The defence 'soteria' needs a layer whose input depends on the image, and this one's does not. "
                "Name another layer, or choose another defence."
            )
        norms.append(moved.flatten(2).norm(dim=2))
    return torch.cat(norms).T.float()


def pruned(r: Tensor, sensitivity: Tensor, share: float) -> Tensor:
    """Which features are set to zero, bool [B, F]: of each example a share of those with the largest ratio.

    The ratio is ``|r| / sensitivity``, and the share that of the features that are not zero. Of equal ones the first
    are chosen, so that the choice is the same everywhere.
    """
    alive = r != 0
    ratio = torch.where(alive, r.abs() / sensitivity, -1.0)
    rank = ratio.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < (share * alive.sum(1, keepdim=True)).round()

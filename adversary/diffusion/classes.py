"""The classes that a diffusion network was told, read from the gradient of its class embedding.

A UNet adds the row ``c_i`` of its class embedding to ``W h(t_i) + b``, the end of its time network, whose hidden layer
h knows the step alone. With ``delta_i`` the derivative of the loss by that sum for example i of a batch,

    grad row_c = sum of delta_i over the examples of class c          grad W = sum_i delta_i h(t_i)^T

so that rows of classes that are not in the batch are exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import linear

from fedsim.errors import FedsimError

PRESENT = 1e-6
"""Share of the largest row's norm below which a row is taken for one without a gradient. The last step of a schedule
may weigh as little as 2e-5; rounding leaves 1e-7."""


def unreadable(network: nn.Module) -> list[str]:
    """Why classes could not be read from gradients of this network, as a sentence; none if they can be."""
    if _embedding(network) is not None:
        return []
    return [
        f"The network, a {type(network).__name__}, has no class_embedding beside a time_embedding.linear_2, as the "
        "UNets of diffusers have, from which labels could be read. Use such a network, or grant 'labels'."
    ]


def read_classes(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    examples: int,
    steps: Tensor | None = None,
) -> Tensor:
    """The labels of a batch, int64 [N].

    Exact for one example. For more, with their steps, it is exact where the steps differ and are no more than the
    embedding can tell apart; of examples of the same step nobody can tell which is which. Without steps the classes are
    exact but for how often each is there: what is left goes to the largest rows.

    Args:
        network: that was trained.
        weights: that the gradient is of, by parameter name.
        gradients: of the batch's mean loss, by parameter name.
        examples: N.
        steps: of the schedule, int64 [N]; labels are in their order, or ascending without them.

    Raises:
        FedsimError: the network has no class embedding, or its gradient is absent or zero.
    """
    name = _embedding(network)
    if name is None:
        raise FedsimError(unreadable(network)[0])
    prefix = f"{name}." if name else ""
    rows = _present(gradients, f"{prefix}class_embedding.weight")
    norms = rows.norm(dim=1)
    present = norms.argsort(descending=True, stable=True)[: min(examples, int((norms > PRESENT * norms.max()).sum()))]
    if steps is None or len(present) == 1:
        return torch.cat([present, present.repeat(examples)])[:examples].sort().values
    distinct, step_of = torch.unique(steps.cpu(), return_inverse=True)
    hidden = _hidden(network.get_submodule(name), weights, f"{prefix}time_embedding.linear_1", distinct)
    towards = gradients[f"{prefix}time_embedding.linear_2.weight"].double().cpu()
    # grad W = deltas^T hidden, and the row of a class holds the whole delta of its examples, or nothing of it
    deltas = _least_squares(hidden.T, towards.T)
    shares = _least_squares(deltas.T, rows[present].T).clamp(0, 1)[step_of]  # [N, classes that are there]
    found = shares.argmax(1)
    classes, theirs = linear_sum_assignment(shares.T.numpy(), maximize=True)  # each class that is there has an example
    found[theirs] = torch.from_numpy(classes)
    labels: Tensor = present[found]
    return labels


def _least_squares(left: Tensor, right: Tensor) -> Tensor:
    """``x`` of ``left x = right``, the shortest where there are several."""
    found: Tensor = torch.linalg.lstsq(left, right, driver="gelsd").solution
    return found


def _embedding(network: nn.Module) -> str | None:
    """The name of the module that embeds classes, and steps in two layers."""
    name: str
    for name, module in network.named_modules():
        layers: Any = getattr(module, "time_embedding", None)
        beside = isinstance(getattr(layers, "linear_2", None), nn.Linear) and hasattr(module, "time_proj")
        if beside and isinstance(getattr(module, "class_embedding", None), nn.Embedding):
            return name
    return None


def _present(gradients: Mapping[str, Tensor], name: str) -> Tensor:
    """The class embedding's gradient, float64 [classes, d]."""
    if name not in gradients:
        raise FedsimError(f"gradients: {name!r} is absent, from which labels are read. Grant 'labels'.")
    rows = gradients[name].detach().double().cpu()
    if not float(rows.norm()) > 0:  # NaN is not either
        raise FedsimError(f"gradients: {name!r} is zero, so that no labels can be read from it. Grant 'labels'.")
    return rows


def _hidden(unet: nn.Module, weights: Mapping[str, Tensor], layer: str, steps: Tensor) -> Tensor:
    """``h(t)`` of each step, float64 [steps, d]."""
    module: Any = unet
    weight, bias = (weights[f"{layer}.{part}"].detach().cpu() for part in ("weight", "bias"))
    embedded = module.time_proj(steps.cpu()).to(weight.dtype)
    hidden: Tensor = module.time_embedding.act(linear(embedded, weight, bias))
    return hidden.double()

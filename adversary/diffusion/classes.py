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
from torch import Tensor, nn
from torch.nn.functional import linear

from fedsim.errors import FedsimError

PRESENT = 1e-4
"""Share of the largest row's norm below which a row is taken for one without a gradient."""
EXPLAINED = 1e-2
"""Likewise after what other examples explain is taken off, whose least squares leave larger errors."""


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
    embedding can tell apart; examples of the same step are given the classes that the others do not explain. Without
    steps the classes are exact but for how often each is there: what is left goes to the largest rows.

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
    labels = rows.norm(dim=1).argsort(descending=True, stable=True)[: int((rows.norm(dim=1) > 0).sum())]
    if steps is None or len(labels) == 1:
        filled = torch.cat([labels, labels.repeat(examples)])[:examples]
        return filled.sort().values
    hidden = _hidden(network.get_submodule(name), weights, f"{prefix}time_embedding.linear_1", steps.unique())
    towards = gradients[f"{prefix}time_embedding.linear_2.weight"].double().cpu()
    deltas = torch.linalg.lstsq(hidden.T, towards.T, driver="gelsd").solution  # [steps, d]: the sum of each step
    return _assigned(rows, deltas, steps.cpu())


def _assigned(rows: Tensor, deltas: Tensor, steps: Tensor) -> Tensor:
    """The class of each example, by how much of each step's derivative its row holds."""
    # rows = shares @ deltas, where a step of one example has the share 1 in its class and 0 in the others
    shares = torch.linalg.lstsq(deltas.T, rows.T, driver="gelsd").solution  # [steps, classes]
    distinct, counts = steps.unique(return_counts=True)
    found = torch.full((len(steps),), -1, dtype=torch.int64)
    left = rows.clone()
    for place in (counts == 1).nonzero().flatten().tolist():
        label = int(shares[place].argmax())
        found[steps == distinct[place]] = label
        left[label] -= deltas[place]
    for place in (counts > 1).nonzero().flatten().tolist():
        own = (steps == distinct[place]).nonzero().flatten()
        norms = left.norm(dim=1)
        ranked = norms.argsort(descending=True, stable=True)
        there = ranked[: max(1, int((norms > EXPLAINED * rows.norm(dim=1).max()).sum()))]
        labels = torch.cat([there, there.repeat(len(own))])[: len(own)]
        found[own] = labels.sort().values
    return found


def _embedding(network: nn.Module) -> str | None:
    """The name of the module that embeds classes, and steps in two layers."""
    for name, module in network.named_modules():
        layers: Any = getattr(module, "time_embedding", None)
        beside = isinstance(getattr(layers, "linear_2", None), nn.Linear) and hasattr(module, "time_proj")
        if beside and isinstance(getattr(module, "class_embedding", None), nn.Embedding):
            return name
    return None


def _present(gradients: Mapping[str, Tensor], name: str) -> Tensor:
    """The class embedding's gradient, float64 [classes, d], without what rounding has left in its rows."""
    if name not in gradients:
        raise FedsimError(f"gradients: {name!r} is absent, from which labels are read. Grant 'labels'.")
    rows = gradients[name].detach().double().cpu()
    norms = rows.norm(dim=1, keepdim=True)
    if not float(norms.max()) > 0:  # NaN is not either
        raise FedsimError(f"gradients: {name!r} is zero, so that no labels can be read from it. Grant 'labels'.")
    return rows.where(norms > PRESENT * norms.max(), torch.zeros(()).double())


def _hidden(unet: nn.Module, weights: Mapping[str, Tensor], layer: str, steps: Tensor) -> Tensor:
    """``h(t)`` of each step, float64 [steps, d]."""
    module: Any = unet
    weight, bias = (weights[f"{layer}.{part}"].detach().cpu() for part in ("weight", "bias"))
    embedded = module.time_proj(steps.cpu()).to(weight.dtype)
    hidden: Tensor = module.time_embedding.act(linear(embedded, weight, bias))
    return hidden.double()

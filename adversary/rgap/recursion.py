"""The recursion: from a layer whose input its gradient gives away, down to the network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversary.rgap.chain import Step
from adversary.rgap.layer import solve
from fedsim.errors import FedsimError


@dataclass(frozen=True)
class Descended:
    """What the recursion found.

    Attributes:
        inputs: of the network, [1, C, H, W].
        deficient: layers whose input is not determined, from the last to the first: name, rank, unknowns.
    """

    inputs: Tensor
    deficient: tuple[tuple[str, int, int], ...]

    def ending(self) -> str:
        """How the recursion went, in words."""
        gaps = [f"{name} (rank {rank} of {unknowns})" for name, rank, unknowns in self.deficient]
        return f"closed form, not determined at {', '.join(gaps)}" if gaps else "closed form"


def anchor(steps: Sequence[Step]) -> int | None:
    """The lowest linear layer with a bias, as an index; ``None`` if there is none.

    Its gradients are ``dL/db = k`` and ``dL/dW = k x^T``, whatever the loss and the layers above: they give
    both x and k. The last layer of a classifier is the common case.
    """
    found = (i for i, s in enumerate(steps) if isinstance(s.affine, nn.Linear) and s.affine.bias is not None)
    return next(found, None)


def missing(steps: Sequence[Step]) -> list[str]:
    """What keeps the recursion from the network's input, each as a sentence."""
    start = anchor(steps)
    if start is None:
        return [
            "It needs a linear layer with a bias, whose gradient gives the layer's input, and the network has none. "
            "Give the last layer a bias or choose an attack by optimisation."
        ]
    return [
        f"Layer {step.name!r} ({step.kind}) {reason}; below the linear layer {steps[start].name!r} it needs "
        "convolutions padded with zeros, linear layers, and LeakyReLU, sigmoid, tanh, ELU or softplus. "
        "Choose an attack by optimisation."
        for step in steps[: start + 1]
        if (reason := step.refusal()) is not None
    ]


@torch.no_grad()
def descend(steps: Sequence[Step], gradients: Mapping[str, Tensor], tolerance: float) -> Descended | None:
    """Recover the network's input, layer by layer (R-GAP, algorithm 1).

    Args:
        steps: a chain from which nothing is ``missing``, with the weights observed, in float64.
        gradients: of one example's loss, by parameter name, in float64.
        tolerance: singular values below this share of the largest count as zero.

    Returns:
        ``None`` where the gradient is zero at the layer that the recursion starts from.

    Raises:
        FedsimError: a layer's linear system would be too large.
    """
    start = anchor(steps)
    if start is None:
        raise FedsimError(" ".join(missing(steps)))
    first = steps[start]
    k = gradients[parameter(first.name, "bias")]
    if not bool(k.any()):
        return None
    # dL/dW = k x^T, over all rows in the sense of least squares.
    x = (k @ gradients[parameter(first.name, "weight")] / k.square().sum())[None]
    gradient = first.pull_back(x, k[None])
    deficient: list[tuple[str, int, int]] = []
    for step in reversed(steps[:start]):
        if step.affine is None:
            x = step.inverse(x)
        else:
            solved = solve(step, x, gradient, gradients[parameter(step.name, "weight")], tolerance)
            x = solved.inputs[None]
            if solved.rank < x.numel():
                deficient.append((step.name, solved.rank, x.numel()))
        gradient = step.pull_back(x, gradient)
    return Descended(x, tuple(deficient))


def parameter(layer: str, tensor: str) -> str:
    """The name of a layer's tensor in the network's state."""
    return f"{layer}.{tensor}" if layer else tensor

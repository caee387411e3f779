"""Rank analysis: which layers of a network give their input away, known before anybody trains.

R-GAP (Zhu, Blaschko, ICLR 2021, arXiv:2010.07733, section 4) counts constraints. Rows depend on each
other, so that counts mislead; here the numerical rank decides, of the constraints themselves, at the
network's weights and a random input. It is the same for almost every input.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary.rgap.chain import Step, chain_of
from adversary.rgap.layer import TOLERANCE, solve
from adversary.rgap.recursion import anchor
from fedsim import seeding


@dataclass(frozen=True)
class LayerRank:
    """What one layer's constraints determine of its input.

    Attributes:
        layer: its name in the network.
        kind: its type.
        unknowns: numbers in its input, padding left out.
        weight_constraints: equations ``W x = z``: its outputs, if those are known.
        gradient_constraints: equations ``dL/dW = k x^T``: its weights.
        rank: numerical rank of all of them; 0 where the layer cannot be inverted.
        reason: why the layer does not let the recursion through, ``None`` if it does.
    """

    layer: str
    kind: str
    unknowns: int
    weight_constraints: int
    gradient_constraints: int
    rank: int
    reason: str | None = None

    @property
    def solvable(self) -> bool:
        """Whether the input follows from what is known."""
        return self.reason is None


@dataclass(frozen=True)
class RankAnalysis:
    """What R-GAP can do against a network, for one example a gradient.

    Attributes:
        layers: from the first to the last, as far up as R-GAP needs them; those without weights only where
            they are in its way.
        anchor: the layer that the recursion starts from, ``None`` if there is none.
    """

    layers: tuple[LayerRank, ...]
    anchor: str | None

    @property
    def leaks(self) -> bool:
        """Whether the whole input follows from a gradient."""
        return self.anchor is not None and all(layer.solvable for layer in self.layers)

    @property
    def safe_because(self) -> tuple[str, ...]:
        """Names of the layers that hide the input, from the first to the last."""
        return tuple(layer.layer for layer in self.layers if not layer.solvable)

    def verdict(self) -> str:
        """One sentence."""
        if self.anchor is None:
            return "Safe from R-GAP: no linear layer has a bias, whose gradient the recursion starts from."
        if self.leaks:
            return "A gradient of one example gives the example away, exactly (R-GAP)."
        return f"Safe from R-GAP, though perhaps not from optimisation, because of {', '.join(self.safe_because)}."


@torch.no_grad()
def rank_analysis(network: nn.Module, input_shape: Sequence[int], *, seed: int = 0) -> RankAnalysis:
    """For each layer whether its input follows from its output and the gradient, which ranks decide.

    Every layer is judged as if all above it were solved: one that is not solvable makes the network safe
    against R-GAP, and spoils all below it. Optimisation may still find what ranks say is not determined,
    by what it knows of images.

    Args:
        network: at the weights in question, in the mode of training; not changed.
        input_shape: channels, height, width.
        seed: of the random input and label.

    Raises:
        FedsimError: the network is no chain, or a layer's linear system would be too large.
    """
    probe = copy.deepcopy(network).double()
    for module in probe.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    steps = chain_of(probe, input_shape)
    start = anchor(steps)
    x = torch.rand(1, *input_shape, dtype=torch.float64, generator=seeding.generator(seed, "rank analysis"))
    layers = [
        _rank(step, output, gradient, anchors=i == start)
        for i, (step, output, gradient) in enumerate(_passed(steps, x))
        if (start is None or i <= start) and (step.affine is not None or step.refusal() is not None)
    ]
    return RankAnalysis(tuple(layers), None if start is None else steps[start].name)


def _passed(steps: Sequence[Step], x: Tensor) -> list[tuple[Step, Tensor, Tensor]]:
    """Each step with its output, and the gradient there of the cross-entropy with the least likely label."""
    values = [x]
    with torch.no_grad():
        for step in steps:
            values.append(step.forward(values[-1].clone()))
    gradient = functional.softmax(values[-1], dim=1)
    gradient[:, values[-1].argmin(dim=1)] -= 1
    found = []
    for step, inputs, output in zip(reversed(steps), reversed(values[:-1]), reversed(values), strict=False):
        found.append((step, output, gradient))
        gradient = step.pull_back(inputs, gradient)
    return found[::-1]


def _rank(step: Step, output: Tensor, gradient: Tensor, *, anchors: bool) -> LayerRank:
    unknowns, layer, reason = math.prod(step.shape), step.affine, step.refusal()
    if layer is None:
        return LayerRank(step.name, step.kind, unknowns, output.numel(), 0, 0, reason)
    weight = layer.weight.detach()
    if anchors:  # its outputs are not known, and not needed
        rank = unknowns if bool(gradient.any()) else 0
        outputs = 0
    else:
        # Ranks do not depend on the right-hand sides.
        zero = torch.zeros_like
        rank = solve(step, zero(output), gradient, zero(weight), TOLERANCE).rank
        outputs = output.numel()
    if rank < unknowns:
        reason = f"has a rank of {rank} for {unknowns} unknowns"
    return LayerRank(step.name, step.kind, unknowns, outputs, weight.numel(), rank, reason)

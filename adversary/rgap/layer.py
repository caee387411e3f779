"""One layer's linear system: its input from its output, the gradient there, and its weight's gradient.

For a convolution ``z = W x + b`` with loss gradient ``k`` at its output (R-GAP, section 3):

    W x = z - b            weight constraints: one an output
    K x = vec(dL/dW)       gradient constraints: one a weight, as dL/dW is linear in x for given k

``K`` is the same matrix ``K0`` for every input channel. So the gradient constraints are solved once and for
all channels together in the directions that ``K0`` determines well; what is left of x, often nothing and
rarely more than a third, is found from the weight constraints and the weak rest of the gradient constraints.
A linear layer is a 1 x 1 convolution of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary.rgap.chain import Step
from fedsim.errors import FedsimError

TOLERANCE = 1e-10
"""Singular values of float64 systems below this share of the largest count as zero."""

STRONG = 1e-2
"""Singular values of ``K0``, as shares of the largest, from which on gradient constraints stand alone."""

LARGEST = 2**28
"""Entries of the largest matrix that is factored: 2 GiB of float64, and about a quarter of an hour."""


@dataclass(frozen=True)
class Solved:
    """A layer's input as its constraints give it.

    Attributes:
        inputs: [channels, height, width]; where they are not determined, of least norm.
        rank: numerical rank of all constraints together.
    """

    inputs: Tensor
    rank: int


@dataclass(frozen=True)
class Layer:
    """A convolution without groups, or one group of one.

    Attributes:
        name: of the layer, for messages.
        weight: [filters, channels, height, width of the kernel].
        stride, padding, dilation: vertical and horizontal.
        size: height and width of the input.
    """

    name: str
    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, int]

    def solve(self, outputs: Tensor, gradient: Tensor, weight_gradient: Tensor, tolerance: float) -> Solved:
        """The input, by least squares over weight and gradient constraints.

        Args:
            outputs: z - b, [filters, height, width].
            gradient: k, the loss gradient with respect to z, of the same shape.
            weight_gradient: dL/dW, of the weight's shape.
            tolerance: singular values below this share of the largest count as zero.

        Raises:
            FedsimError: the matrix would be too large.
        """
        channels, (height, width) = self.weight.shape[1], self.size
        gradient_matrix = self._gradient_matrix(gradient)
        rows, pixels = gradient_matrix.shape
        u, s, vh = torch.linalg.svd(gradient_matrix, full_matrices=rows < pixels)
        strong, used = (int((s > share * s[0]).sum()) for share in (max(STRONG, tolerance), tolerance))
        measured = weight_gradient.transpose(0, 1).reshape(channels, rows) @ u[:, :used]
        x = (measured[:, :strong] / s[:strong]) @ vh[:strong]
        if strong == pixels:
            return Solved(x.view(channels, height, width), channels * pixels)
        rest = vh[strong:]
        self._bounded((outputs.numel() + channels * (used - strong)) * channels * len(rest))
        residual = outputs - self._apply(x.view(1, channels, height, width), self.weight)[0]
        # Both kinds of rows on one scale, or the larger would drown the smaller.
        size = self.weight.square().sum(dim=(0, 2, 3)).max().sqrt()
        scale = size / s[0] if used else size
        weak = torch.zeros(used - strong, len(rest), dtype=s.dtype, device=s.device)
        weak.diagonal().copy_(s[strong:used] * scale)
        each_channel = torch.eye(channels, dtype=s.dtype, device=s.device)
        constraints = torch.cat([self._weight_matrix(rest), torch.kron(each_channel, weak)])
        values = torch.cat([residual.flatten(), (measured[:, strong:] * scale).flatten()])
        y, rank = _least_squares(constraints, values, tolerance * float(size))
        x = x + y.view(channels, len(rest)) @ rest
        return Solved(x.view(channels, height, width), channels * strong + rank)

    def _gradient_matrix(self, gradient: Tensor) -> Tensor:
        """``K0`` [filters * kernel, pixels]: dL/dW of one input channel as a function of its pixels."""
        pixels = self.size[0] * self.size[1]
        kernel = tuple(self.weight.shape[2:])
        self._bounded(pixels * gradient[0].numel() * kernel[0] * kernel[1])
        each = torch.eye(pixels, dtype=gradient.dtype, device=gradient.device).view(pixels, 1, *self.size)
        patches = functional.unfold(each, kernel, self.dilation, self.padding, self.stride)
        return torch.einsum("nql,fl->fqn", patches, gradient.flatten(1)).reshape(-1, pixels)

    def _weight_matrix(self, directions: Tensor) -> Tensor:
        """``W`` [outputs, channels * directions] along directions [directions, pixels] in each channel."""
        images = directions.view(-1, 1, *self.size)
        each = range(self.weight.shape[1])
        columns = [self._apply(images, self.weight[:, c : c + 1]).flatten(1) for c in each]
        return torch.cat(columns).T

    def _apply(self, images: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(images, weight, None, self.stride, self.padding, self.dilation)

    def _bounded(self, entries: int) -> None:
        if entries > LARGEST:
            raise FedsimError(
                f"R-GAP's linear system for layer {self.name!r} would have {entries:.1e} entries; it solves up to "
                f"{LARGEST:.1e}. Choose an attack by optimisation, or a network with a smaller input at this layer."
            )


def solve(step: Step, outputs: Tensor, gradient: Tensor, weight_gradient: Tensor, tolerance: float) -> Solved:
    """The input [*shape] of a convolution or linear layer, each group of a convolution by itself.

    Args:
        step: an affine one.
        outputs: z [1, ...].
        gradient: loss gradient with respect to z, of the same shape.
        weight_gradient: of the weight's shape.
        tolerance: singular values below this share of the largest count as zero.

    Raises:
        FedsimError: a matrix would be too large.
    """
    module = step.affine
    if module is None:
        raise ValueError(f"{step.name} is no layer that can be solved")
    weight = module.weight.detach()
    z = outputs if module.bias is None else outputs - module.bias.detach().view(1, -1, *[1] * (outputs.ndim - 2))
    if isinstance(module, nn.Linear):
        layers = [Layer(step.name, weight[:, :, None, None], (1, 1), (0, 0), (1, 1), (1, 1))]
        images = z.view(-1, 1, 1), gradient.view(-1, 1, 1)
    else:
        padding = cast("tuple[int, ...]", module.padding)  # the chain refuses words
        layers = [
            Layer(step.name, group, module.stride, padding, module.dilation, (step.shape[1], step.shape[2]))
            for group in weight.chunk(module.groups)
        ]
        images = z[0], gradient[0]
    outputs_of, gradients_of = (image.chunk(len(layers)) for image in images)
    measured = weight_gradient.view(-1, *layers[0].weight.shape[1:]).chunk(len(layers))
    parts = [layer.solve(outputs_of[i], gradients_of[i], measured[i], tolerance) for i, layer in enumerate(layers)]
    return Solved(torch.cat([part.inputs for part in parts]).view(step.shape), sum(part.rank for part in parts))


def _least_squares(matrix: Tensor, values: Tensor, least: float) -> tuple[Tensor, int]:
    """The solution of least norm, and the numerical rank: how many singular values exceed ``least``."""
    # First to a square triangle, whose singular values are the same and found in a fraction of the time.
    triangle = torch.linalg.qr(torch.cat([matrix, values[:, None]], dim=1), mode="r").R
    u, s, vh = _svd(triangle[:, :-1])
    rank = int((s > least).sum())
    return vh[:rank].T @ ((u[:, :rank].T @ triangle[:, -1]) / s[:rank]), rank


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reduced singular value decomposition, by QR iteration where the faster algorithm does not converge."""
    try:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    except RuntimeError:  # as PyTorch reports what does not converge
        found = scipy.linalg.svd(matrix.detach().cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        u, s, vh = (torch.from_numpy(part).to(matrix.device) for part in found)
    return u, s, vh

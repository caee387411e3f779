"""How far a simulated update is from the one observed: lists of tensors in, a scalar out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from adversary.inversion.weights import LayerWeights

TINY = 1e-15
"""Least norm that the cosine divides by; far below any gradient that carries information."""


class Distance(Protocol):
    """A differentiable dissimilarity of two updates; tensors correspond by position."""

    def __call__(self, simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """The dissimilarity, a scalar."""


@runtime_checkable
class LayerWise(Protocol):
    """What makes a distance once the network is known."""

    def bind(self, depths: Sequence[int]) -> Distance:
        """The distance for tensors that lie at these depths, 0 at the input."""


@dataclass(frozen=True)
class Euclidean:
    """Sum of squared differences over all tensors (DLG, equation 4).

    Attributes:
        relative: divide by the squared norm of the update observed. The minimum stays where it is, and
            tolerances mean the same for the large gradients of a fresh network and the small ones of a
            trained one.
    """

    relative: bool = False

    def __call__(self, simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        distance = self._squared(simulated, target)
        return distance / _norm(target).square() if self.relative else distance

    @staticmethod
    def _squared(simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        return torch.stack([(s - t).square().sum() for s, t in zip(simulated, target, strict=True)]).sum()


@dataclass(frozen=True)
class TensorNorms:
    """Sum over tensors of the norm of their difference, over that of the norms observed (GradInversion, equation 3).

    A norm that is not squared does not let the tensors with the largest gradients decide alone. The paper does not
    divide; here the weights of priors then mean the same whatever the size of the gradients.
    """

    def __call__(self, simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        gaps = torch.stack([_norm([s - t]) for s, t in zip(simulated, target, strict=True)])
        return gaps.sum() / torch.stack([_norm([t]) for t in target]).sum()


@dataclass(frozen=True)
class Cosine:
    """One minus the cosine of the two updates as two long vectors (Inverting Gradients, equation 4).

    One cosine over all tensors, not one a tensor: tensors with large gradients weigh more. The scale of
    either update does not matter. Two updates of which one is zero are at distance 1.
    """

    def __call__(self, simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        return cosine_distance(simulated, target)


@dataclass(frozen=True)
class Weighted:
    """A distance in which tensor i counts ``lambda_i`` times: both updates are multiplied by ``sqrt(lambda_i)``.

    With ``Cosine`` this is ``1 - sum_i l_i <s_i, t_i> / sqrt(sum_i l_i |s_i|^2 sum_i l_i |t_i|^2)``, with
    ``Euclidean`` ``sum_i l_i |s_i - t_i|^2``.

    Attributes:
        distance: the one weighted.
        weights: lambda, of depth and of the update observed.
    """

    distance: Distance
    weights: LayerWeights

    def bind(self, depths: Sequence[int]) -> Distance:
        return BoundWeighted(self.distance, self.weights, tuple(depths))


@dataclass(frozen=True)
class BoundWeighted:
    """``Weighted`` for tensors at known depths."""

    distance: Distance
    weights: LayerWeights
    depths: tuple[int, ...]

    def __call__(self, simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        roots = self.weights(self.depths, target).sqrt().unbind()
        return self.distance(
            [root * s for root, s in zip(roots, simulated, strict=True)],
            [root * t for root, t in zip(roots, target, strict=True)],
        )


def cosine_distance(simulated: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """``1 - <s, t> / (|s| |t|)``, computed so that it stays exact for nearly parallel updates.

    The textbook form cancels in single precision near 0, where the last decibels of a reconstruction lie.
    With unit vectors ``u = s/|s|`` and ``v = t/|t|`` it equals ``|u - v|^2 / 2``, which does not cancel.
    """
    size = _norm(simulated)
    target_size = _norm(target)
    parts = [(s / size - t / target_size).square().sum() for s, t in zip(simulated, target, strict=True)]
    # Where one update is zero, |u - v|^2 / 2 is 1/2 and the cosine is by convention 0.
    degenerate = (size <= TINY) | (target_size <= TINY)
    return torch.where(degenerate, torch.ones_like(size), torch.stack(parts).sum() / 2)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    # Clamped below the root, whose derivative at 0 is infinite.
    return torch.stack([t.square().sum() for t in tensors]).sum().clamp_min(TINY**2).sqrt()

"""What images look like: penalties on a candidate, [N, C, H, W] in [0, 1] in, a scalar out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Prior(Protocol):
    """A differentiable penalty on images."""

    def __call__(self, images: Tensor) -> Tensor:
        """The weighted penalty of images [N, C, H, W] in [0, 1], a scalar."""


@dataclass(frozen=True)
class TotalVariation:
    """Anisotropic total variation (Rudin, Osher, Fatemi 1992), times a weight.

    On images in [0, 1], so that the weight means the same whatever clients normalise by; codes that
    measure normalised images need a weight smaller by the standard deviation for the same effect.

    Attributes:
        weight: alpha of the papers.
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * total_variation(images)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of horizontal neighbours plus that of vertical neighbours.

    Args:
        images: [N, C, H, W], at least 2 pixels a side.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down

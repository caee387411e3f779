"""What images look like: penalties on a candidate, [N, C, H, W] in [0, 1] in, a scalar out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedsim.protocol import Knowledge, Observation


class Prior(Protocol):
    """A differentiable penalty on images."""

    def __call__(self, images: Tensor) -> Tensor:
        """The weighted penalty of images [N, C, H, W] in [0, 1], a scalar.

        Where a simulator wants copies of the images, they come as [copies, N, C, H, W].
        """


@runtime_checkable
class Observing(Protocol):
    """What makes a prior once the network and the victim's observation are known."""

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Prior:
        """The prior for this victim."""


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


@dataclass(frozen=True)
class Magnitude:
    """Root mean square of the distance from mid-grey, times a weight.

    Attributes:
        weight: alpha of the papers.
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        # Below the root a hair more than 0, where its derivative is infinite.
        return self.weight * ((images - 0.5).square().mean() + 1e-12).sqrt()


@dataclass(frozen=True)
class OutOfRange:
    """Mean square of how far pixels are outside [0, 1], times a weight: a soft box for a search without one.

    Attributes:
        weight: of the penalty.
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * (images - images.clamp(0, 1)).square().mean()


@dataclass(frozen=True)
class Together:
    """The sum of several priors.

    Attributes:
        parts: the priors.
    """

    parts: tuple[Prior | Observing, ...]

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Prior:
        bound = [p.bind(network, observation, knowledge, device) if isinstance(p, Observing) else p for p in self.parts]
        return lambda images: torch.stack([part(images) for part in bound]).sum()


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of horizontal neighbours plus that of vertical neighbours.

    Args:
        images: [N, C, H, W], at least 2 pixels a side.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down

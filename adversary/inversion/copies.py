"""Copies of the same examples, one an epoch: a prior that ties them in any order, and what they have in common."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from fedsim import seeding


@dataclass(frozen=True)
class SameImages:
    """All copies hold the same images, in whatever order (Dimitrov et al., TMLR 2022, arXiv:2206.12395).

    ``weight / E^2 sum_{e,e'} mean((s_e - s_e')^2)`` with ``s_e = pool_n f(x_e)``, where the pooling over the N images
    of a copy forgets their order, and f is the identity or a random convolution.

    Attributes:
        weight: of the penalty.
        features: f; ``convolution`` has 96 filters of 3x3 with entries from N(0, 1 / fan-in).
        pool: over the images of a copy.
    """

    weight: float
    features: Literal["convolution", "pixels"] = "convolution"
    pool: Literal["max", "mean"] = "max"

    def __call__(self, images: Tensor) -> Tensor:
        """The penalty of copies [E, N, C, H, W]; 0 for the images [N, C, H, W] of a single copy."""
        if images.ndim == 4:
            return images.new_zeros(())
        seen = images.flatten(0, 1)
        if self.features == "convolution":
            filters = _filters(images.shape[2]).to(images.device, images.dtype)
            seen = functional.conv2d(seen, filters, padding=1)
        seen = seen.view(*images.shape[:2], *seen.shape[1:])
        pooled = seen.amax(dim=1) if self.pool == "max" else seen.mean(dim=1)
        # The mean square difference of all pairs is twice the variance.
        return self.weight * 2 * pooled.var(dim=0, correction=0).mean()


@functools.lru_cache(maxsize=8)
def _filters(channels: int) -> Tensor:
    draws = seeding.generator(0, "attack", "filters")
    return torch.randn(96, channels, 3, 3, generator=draws) / math.sqrt(9 * channels)


def common(images: Tensor, labels: Tensor) -> Tensor:
    """What copies have in common: each is put into the order of the first, then they are averaged.

    Images of one label may be exchanged between copies; which go together is the assignment of least squared
    distance.

    Args:
        images: [E, N, C, H, W].
        labels: int64 [N], those of each copy.

    Returns:
        [N, C, H, W].
    """
    first = images[0].flatten(1)
    total: Tensor = images[0].clone()
    foreign = (labels.unsqueeze(1) != labels).cpu()
    for copy in images[1:]:
        apart = (first.unsqueeze(1) - copy.flatten(1)).square().sum(dim=2).double().cpu()
        apart[foreign] = apart.max() * len(labels) + 1
        _, partners = linear_sum_assignment(apart.numpy())
        total += copy[torch.from_numpy(partners).to(images.device)]
    return total / len(images)

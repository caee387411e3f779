"""Laplacian noise on the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("laplacian_noise")
@dataclass(frozen=True)
class LaplacianNoise:
    """Independent Laplacian noise on each entry of the update; its strength is that of ``gaussian_noise``.

    Attributes:
        standard_deviation: in the units of the update; the scale ``b`` of the distribution is this over sqrt(2).
    """

    standard_deviation: float

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.standard_deviation < float("inf"):
            raise invalid(
                "defence laplacian_noise: standard_deviation",
                self.standard_deviation,
                "must be 0 or more",
                "Correct it",
            )

    def defend(self, update: Update, site: Site) -> Update:
        draws, scale = site.generator(), self.standard_deviation / math.sqrt(2)
        return {name: u + scale * standard_laplacian(u.shape, draws).to(u) for name, u in update.items()}


def standard_laplacian(shape: torch.Size, draws: torch.Generator) -> Tensor:
    """Laplacian noise of scale 1 (variance 2), float64: the difference of two exponential variables."""
    one, other = (-torch.log1p(-torch.rand(shape, generator=draws, dtype=torch.float64)) for _ in range(2))
    return one - other

"""Gaussian noise on the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise of one standard deviation on each entry of the update.

    After ``clipping`` with the norm C this is the Gaussian mechanism for the client's whole update, with the
    noise multiplier ``standard_deviation / C``; without, it promises nothing formal.

    Attributes:
        standard_deviation: in the units of the update: of a gradient, or of the weights of a model.
    """

    standard_deviation: float

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.standard_deviation < float("inf"):
            raise invalid(
                "defence gaussian_noise: standard_deviation", self.standard_deviation, "must be 0 or more", "Correct it"
            )

    def defend(self, update: Update, site: Site) -> Update:
        draws = site.generator()
        return {
            name: u + self.standard_deviation * torch.randn(u.shape, generator=draws).to(u)
            for name, u in update.items()
        }

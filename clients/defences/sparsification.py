"""Random sparsification of the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("sparsification")
@dataclass(frozen=True)
class Sparsification:
    """Set entries of the update to zero at random, and enlarge the others so that the mean stays.

    Each entry survives with probability ``1 - share``, and is divided by it (Wangni et al., NeurIPS 2018,
    arXiv:1710.09854, with equal probabilities). The masks of Konečný et al. 2016, arXiv:1610.05492, are this without
    the division.

    Attributes:
        share: probability of an entry to be set to zero, in [0, 1).
        unbiased: whether the entries that survive are enlarged.
    """

    share: float
    unbiased: bool = True

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise invalid("defence sparsification: share", self.share, "must be in [0, 1)", "0.7 sends 30 %")

    def defend(self, update: Update, site: Site) -> Update:
        draws, factor = site.generator(), 1 / (1 - self.share) if self.unbiased else 1.0
        return {
            name: u * (torch.rand(u.shape, generator=draws) >= self.share).to(u.device) * factor
            for name, u in update.items()
        }

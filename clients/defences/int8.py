"""Quantisation of the update to whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("int8")
@dataclass(frozen=True)
class Int8:
    """Round each tensor to multiples of a step of its own, up or down at random so that the mean stays.

    The step is the largest absolute entry over ``2^(bits - 1) - 1``: 127 with 8 bits. As in QSGD (Alistarh et
    al., NeurIPS 2017, arXiv:1610.02132) but with the largest entry in place of the norm. The update still travels in
    its own type.

    Attributes:
        bits: of each entry, 2 to 8.
    """

    bits: int = 8

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise invalid("defence int8: bits", self.bits, "must be 2 to 8", "Correct it")

    def defend(self, update: Update, site: Site) -> Update:
        draws = site.generator()
        return {name: quantised(u, 2 ** (self.bits - 1) - 1, draws) for name, u in update.items()}


def quantised(values: Tensor, levels: int, draws: torch.Generator) -> Tensor:
    """Stochastic rounding to ``-levels .. levels`` times the step: ``E[quantised(v)] = v``."""
    dice = torch.rand(values.shape, generator=draws, dtype=torch.float64).to(values.device)
    step = values.abs().amax().double() / levels if values.numel() else torch.zeros(())
    if float(step) == 0:
        return values
    whole = (values.double() / step + dice).floor().clamp(-levels, levels)
    return (whole * step).to(values.dtype)

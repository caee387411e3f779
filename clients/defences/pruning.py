"""Magnitude pruning of the update, with error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("pruning")
@dataclass(frozen=True)
class Pruning:
    """Send only the largest entries of each tensor, and keep the rest for later rounds.

    With u the update and m what was kept back so far, ``v = u + m``; of each tensor of v the largest entries
    are sent, and ``m' = v - sent`` (error feedback: Seide et al. 2014; gradient sparsification as in Lin et al.,
    Deep Gradient Compression, ICLR 2018, arXiv:1712.01887). Over the rounds a client so sends everything but
    what it keeps at the end.

    Attributes:
        share: of the entries of each tensor that are set to zero, in [0, 1). One entry is always sent.
        error_feedback: whether what was not sent is kept and added to the next update; otherwise it is lost.
    """

    share: float
    error_feedback: bool = True

    remembers: ClassVar[bool] = True
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise invalid("defence pruning: share", self.share, "must be in [0, 1)", "0.7 sends 30 % of the entries")

    def defend(self, update: Update, site: Site) -> Update:
        kept = site.memory.arrays() if self.error_feedback else {}
        whole = {name: u + kept[name].to(u) if name in kept else u for name, u in update.items()}
        sent = {name: v * largest(v, self.share) for name, v in whole.items()}
        if self.error_feedback and all(bool(v.isfinite().all()) for v in whole.values()):
            # A diverged update is refused by any server; what was kept back before must not go with it.
            site.memory.keep_arrays({name: whole[name] - sent[name] for name in whole})
        return sent


def largest(values: Tensor, share: float) -> Tensor:
    """Where the entries stand that survive pruning of ``share``, a bool tensor.

    Of equal entries the first ones survive, so that the choice is the same everywhere.
    """
    count = max(1, values.numel() - round(share * values.numel()))
    order = values.abs().flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[order[:count]] = True
    return chosen.view_as(values)

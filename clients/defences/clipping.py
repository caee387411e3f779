"""Clipping of the update to a norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid


@DEFENCES.register("clipping")
@dataclass(frozen=True)
class Clipping:
    """Scale the update down to a Euclidean norm over all its tensors, if it is longer.

    McMahan, Ramage, Talwar, Zhang, ICLR 2018, arXiv:1710.06963, "flat clipping": ``u min(1, C / |u|)``.

    Attributes:
        norm: C, the longest an update may be.
    """

    norm: float

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.norm < float("inf"):
            raise invalid("defence clipping: norm", self.norm, "must be more than 0", "Correct it")

    def defend(self, update: Update, site: Site) -> Update:  # noqa: ARG002
        length = float(torch.stack([u.double().square().sum() for u in update.values()]).sum().sqrt())
        if length <= self.norm:
            return update
        return {name: u * (self.norm / length) for name, u in update.items()}

"""Withholding of chosen layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from clients.defences.defence import DEFENCES, Site, Update
from fedsim.errors import invalid, nearest
from fedsim.models import array_is_in
from fedsim.protocol import TrainingPlan


@DEFENCES.register("withholding")
@dataclass(frozen=True)
class Withholding:
    """Keep chosen layers to the client, as if they were trained inside an enclave: their update is zero.

    In PPFL (Mo et al., MobiSys 2021, arXiv:2104.14380) the enclaves still aggregate the layers they hold; here
    nobody does, and these layers stay as they were at first. Neighbouring layers still tell of a withheld one.

    Attributes:
        layers: names of modules (``fc``), of arrays (``fc.weight``), or patterns (``*.running_*``); with a
            module its batch-norm statistics are withheld too.
    """

    layers: list[str]

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise invalid("defence withholding: layers", self.layers, "withholds nothing", "Name a layer")

    def check(self, model: nn.Module, plan: TrainingPlan) -> None:  # noqa: ARG002
        self._withheld(model.state_dict())

    def defend(self, update: Update, site: Site) -> Update:  # noqa: ARG002
        withheld = self._withheld(update)
        return {name: torch.zeros_like(u) if name in withheld else u for name, u in update.items()}

    def _withheld(self, names: Iterable[str]) -> set[str]:
        names = list(names)
        found: set[str] = set()
        for layer in self.layers:
            matching = {name for name in names if array_is_in(name, layer)}
            if not matching:
                modules = {name.rpartition(".")[0] for name in names} - {""}
                raise invalid("defence withholding: layers", layer, "is no layer", nearest(layer, [*modules, *names]))
            found |= matching
        return found

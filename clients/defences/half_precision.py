"""Half precision of the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clients.defences.defence import DEFENCES, Site, Update


@DEFENCES.register("half_precision")
@dataclass(frozen=True)
class HalfPrecision:
    """Round each entry of the update to 16 bits; it still travels in its own type.

    Attributes:
        format: ``float16`` (11 bits of precision; finite values beyond 65,504 become that) or ``bfloat16`` (8 bits).
    """

    format: Literal["float16", "bfloat16"] = "float16"

    remembers: ClassVar[bool] = False
    buffers: ClassVar[bool] = False

    def defend(self, update: Update, site: Site) -> Update:  # noqa: ARG002
        to = torch.float16 if self.format == "float16" else torch.bfloat16
        return {name: rounded(u, to) for name, u in update.items()}


def rounded(values: Tensor, to: torch.dtype) -> Tensor:
    """The nearest values that the type has, in the tensor's own type; NaN and infinity stay what they are."""
    limits = torch.finfo(to)
    near = values.clamp(limits.min, limits.max).to(to).to(values.dtype)
    return torch.where(values.isinf(), values, near)

"""The test split of data that come without one."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import invalid


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Ascending indices of the training and of the test split, int64, the same share of each class.

    Args:
        labels: int64 [N].
        share: of each class that is held out, between 0 and 1; rounded, so that a small class may lend none.
        seed: decides which.

    Raises:
        FedsimError: the share is not between 0 and 1, or leaves one split empty.
    """
    if not 0 < share < 1:
        raise invalid("test_share", share, "must be between 0 and 1", "Correct it")
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=seeding.generator(seed, "hold out", label))
        held_out[members[order[: round(share * len(members))]]] = True
    if held_out.all() or not held_out.any():
        raise invalid("test_share", share, f"leaves a split of {len(labels)} images empty", "Change it or add images")
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]

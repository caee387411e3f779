"""From estimated counts of each class to labels."""

from __future__ import annotations

import torch
from torch import Tensor


def round_counts(estimate: Tensor, least: Tensor, total: int) -> Tensor:
    """Whole counts near an estimate that add up to ``total``.

    Clamp at ``least``, floor, then add where most is missing or remove where least is.

    Args:
        estimate: [classes].
        least: int64 [classes], counts that are certain; ignored if they exceed the total.
        total: samples.
    """
    if int(least.sum()) > total:
        least = torch.zeros_like(least)
    estimate = torch.nan_to_num(estimate).clamp(-total, total)  # a broken update must not stop the attack here
    whole = torch.maximum(estimate.floor().long(), least)
    while int(whole.sum()) < total:
        whole[(estimate - whole).argmax()] += 1
    while int(whole.sum()) > total:
        gap = torch.where(whole > least, estimate - whole, torch.inf)
        whole[gap.argmin()] -= 1
    return whole


def labels_from_counts(counted: Tensor) -> Tensor:
    """Labels int64 [N], ascending, from counts int64 [classes]."""
    return torch.repeat_interleave(torch.arange(len(counted)), counted)


def labels_from_presence(order: Tensor, total: int) -> Tensor:
    """Labels int64 [N], ascending, of classes that are only known to be there.

    Args:
        order: int64 [present], classes, the surest first; gone through again until N labels are set.
        total: samples, N.
    """
    return order.repeat(-(-total // len(order)))[:total].sort().values.cpu()

"""Labels one by one, each taking the share of a sample off its class (Wainakh et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy(signal: Tensor, impact: Tensor, total: int, offset: Tensor | float = 0.0) -> Tensor:
    """Labels int64 [N], ascending: negative classes once each, then always the class that stands lowest.

    Args:
        signal: [classes], the more negative the more samples.
        impact: what one sample adds to its own class, a negative scalar.
        total: samples, N. Where more classes are negative, the most negative are taken.
        offset: [classes], what samples of other classes add; taken off after the first pass.
    """
    signal = signal.detach().cpu().clone()
    taken = signal.argsort()[: min(int((signal < 0).sum()), total)].tolist()
    signal[taken] -= impact
    signal -= offset
    while len(taken) < total:
        chosen = int(signal.argmin())
        taken.append(chosen)
        signal[chosen] -= impact
    return torch.tensor(taken, dtype=torch.int64).sort().values

"""Counts that hold whatever the data: what follows from probabilities that are not negative."""

from __future__ import annotations

import torch
from torch import Tensor

from adversary.labels.evidence import Evidence


def certain_counts(evidence: Evidence) -> Tensor:
    """Least counts, int64 [classes]: ``n_c >= -B grad b_c``, as ``grad b_c = p_c - n_c / B`` and ``p_c >= 0``.

    Zeros where the last layer has no bias.
    """
    n, bias = evidence.examples, evidence.bias_gradient()
    if bias is None:
        return torch.zeros(evidence.knowledge.classes, dtype=torch.int64)
    # A margin for rounding errors of the gradient, far below one sample.
    bound = -n * bias.detach().cpu() - 1e-4
    # Over several steps samples of smaller batches weigh more, so that only whole samples are certain.
    least = torch.nan_to_num(bound.ceil() if evidence.steps == 1 else bound.floor()).clamp(0, n).long()
    if evidence.observation.kind == "gradient":  # a negative entry, however small, takes a sample of its class
        least = torch.maximum(least, (bias < 0).long().cpu())
    return least

"""Counts from a linear system, with each class's features read off the gradient (iLRG)."""

from __future__ import annotations

import torch
from torch import Tensor

from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.confidences import confidences, features_of_classes, linear_system
from adversary.labels.evidence import Evidence
from adversary.labels.rounding import labels_from_counts, round_counts


def ilrg(evidence: Evidence) -> Tensor:
    """Instance-wise label restoration (iLRG, Ma et al., ICLR 2023, openreview FIrQfNSOoTr).

    1. Features of each class: ``a_c = grad W_c / grad b_c``.
    2. Their outputs ``q_c = softmax(W a_c + b)``.
    3. Counts by the pseudo-inverse of ``sum_k n_k (q_kc - 1[k = c]) = B grad b_c, sum_c n_c = B``, then rounded.

    Needs a bias, any activation and no outputs on noise, hence serves trained networks too. Assumes samples of a
    class to have like features and little weight in other classes' rows. Exact where all samples share
    their features. For an update of several steps the weights sent stand for all, as in the paper; ``rlu`` goes along
    the path. Where the gradient's scale is unknown this is ``bias_corrected``. Where counts fall short of B the
    released code adds one to all classes but a few (a slice up to a negative number).

    Raises:
        FedsimError: the last layer has no bias.
    """
    bias = evidence.bias_gradient_or_refuse("ilrg").detach().cpu()
    if not evidence.scaled:
        return bias_corrected(evidence)
    features = features_of_classes(evidence.weight_gradient().detach().cpu(), bias)
    matrix, right = linear_system(confidences(evidence, features, [0.0]), bias, evidence.examples)
    estimate = torch.linalg.pinv(torch.nan_to_num(matrix)) @ right
    return labels_from_counts(round_counts(estimate, torch.zeros_like(estimate).long(), evidence.examples))

"""Counts and one feature vector a class that explain the last layer's gradient together (fedsim's own rule)."""

from __future__ import annotations

import torch
from torch import Tensor

from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.certain import certain_counts
from adversary.labels.confidences import confidences, features_of_classes, linear_system, not_negative_solution
from adversary.labels.evidence import Evidence
from adversary.labels.path import path_positions
from adversary.labels.rounding import labels_from_counts, round_counts

_ITERATIONS = 10
_RIDGE = 1e-3


def class_features(evidence: Evidence) -> Tensor:
    """Counts n and features a of classes, in turns, until they explain grad W and grad b (this project's own).

    With one feature vector a class and its mean outputs ``q_c`` along the path, as in ``rlu``,

        M_kc = (q_ck - 1[k = c]) n_c / B        grad b = M 1        grad W = M A

    ``ilrg`` and ``rlu`` take ``a_c = grad W_c / grad b_c``, in which other classes' samples have a share, and solve the
    first equation for n. Here the second is solved for A in turn, by ridge regression towards the mean feature
    of the classes with a negative gradient (M has no inverse: its columns sum up to 0), and so on. Counts that
    are certain are set first, as in ``counts``. Needs a bias, any activation. Exact where samples of a class
    look alike to the last layer. Where the gradient's scale is unknown this is ``bias_corrected``.

    Raises:
        FedsimError: the last layer has no bias.
    """
    bias = evidence.bias_gradient_or_refuse("class_features").detach().cpu()
    if not evidence.scaled:
        return bias_corrected(evidence)
    n, least, positions = evidence.examples, certain_counts(evidence), path_positions(evidence)
    if int(least.sum()) == n:  # nothing is left to estimate
        return labels_from_counts(least)
    weight = torch.nan_to_num(evidence.weight_gradient().detach().cpu().double())
    negative = (bias < 0).double()
    mean = (negative @ weight) / (negative @ bias.double()).clamp(max=-1e-12)
    features = features_of_classes(weight, bias)
    unit = torch.eye(len(bias), dtype=torch.float64)
    for _ in range(_ITERATIONS):
        confidence = confidences(evidence, features, positions)
        estimate = not_negative_solution(*linear_system(confidence, bias, n))
        m = torch.nan_to_num(confidence.T - unit) * estimate / n
        features = mean + torch.linalg.solve(m.T @ m + _RIDGE * unit, m.T @ (weight - m.sum(dim=1).outer(mean)))
    return labels_from_counts(round_counts(estimate, least, n))

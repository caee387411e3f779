"""Counts by least squares from the confidences along the local training (RLU)."""

from __future__ import annotations

from torch import Tensor, zeros_like

from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.confidences import confidences, features_of_classes, linear_system, not_negative_solution
from adversary.labels.evidence import Evidence
from adversary.labels.path import path_positions
from adversary.labels.rounding import labels_from_counts, round_counts


def rlu(evidence: Evidence) -> Tensor:
    """Least squares over counts, confidences followed along the path (after RLU, Chen, Vikalo 2024, arXiv:2405.00955).

    ``min_n |sum_k n_k (q_k - e_k) - B grad b|^2``, n not negative and adding up to B; ``q_k`` is the mean confidence in
    each class, over the local steps, of samples of class k. RLU measures it on auxiliary samples of each class and
    simulates how it moves; this adversary is granted no such samples, hence takes ``a_k = grad W_k / grad b_k`` for
    the features of class k, as ``ilrg``, and the last layer at points of the line from the weights sent to
    those received. So it is RLU's equations, not its accuracy. Needs a bias, any activation. For one step it is
    ``ilrg`` with counts that are not negative. Where the gradient's scale is unknown this is ``bias_corrected``.

    Raises:
        FedsimError: the last layer has no bias.
    """
    bias = evidence.bias_gradient_or_refuse("rlu").detach().cpu()
    if not evidence.scaled:
        return bias_corrected(evidence)
    features = features_of_classes(evidence.weight_gradient().detach().cpu(), bias)
    confidence = confidences(evidence, features, path_positions(evidence))
    estimate = not_negative_solution(*linear_system(confidence, bias, evidence.examples))
    return labels_from_counts(round_counts(estimate, zeros_like(estimate).long(), evidence.examples))

"""Counts of each class, exact facts first: the default of the attacks."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.certain import certain_counts
from adversary.labels.evidence import Evidence
from adversary.labels.noise import outputs_on_noise
from adversary.labels.rounding import labels_from_counts, round_counts


def counts(evidence: Evidence) -> Tensor:
    """Counts of each class, ``n_c = B (p_c - grad b_c)``, p estimated on noise; exact facts take precedence.

    Without a bias, ``n_c = B (p_c - sum_j grad W_cj / O)`` with O the mean sum of the features (Dimitrov et
    al. 2022, arXiv:2206.12395, section 4.2); p and O come from N(0, 1) inputs, averaged for an update of several steps
    along the line from the weights sent to those received. As p is not negative, ``n_c >= -B grad b_c``
    holds whatever the data; these labels are set first, so that one sample is read as iDLG does. Near exact
    on fresh and briefly trained networks; outputs on noise say less of a network that has learned. Where
    the gradient's scale is unknown this is ``bias_corrected``.
    """
    if not evidence.scaled:
        return bias_corrected(evidence)
    n, bias, least = evidence.examples, evidence.bias_gradient(), certain_counts(evidence)
    if int(least.sum()) == n:  # nothing is left to estimate
        return labels_from_counts(least)
    noise = outputs_on_noise(evidence)
    probability, feature_sum = noise.probability(), noise.feature_sum()
    deviation = evidence.weight_gradient().sum(dim=1).cpu() / feature_sum if bias is None else bias.detach().cpu()
    return labels_from_counts(round_counts(n * (probability - deviation), least, n))

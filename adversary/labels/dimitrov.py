"""Counts by the row sums of the weight gradient, with outputs interpolated along the local training."""

from __future__ import annotations

from torch import Tensor, zeros_like

from adversary.labels.evidence import Evidence
from adversary.labels.llg import llg
from adversary.labels.noise import outputs_on_noise
from adversary.labels.rounding import labels_from_counts, round_counts


def dimitrov(evidence: Evidence) -> Tensor:
    """``n_c = N p_c - N sum_j grad W_cj / O`` (Dimitrov et al. 2022, arXiv:2206.12395, section 4.2).

    O is the mean sum of the features, grad W the update over learning rate and steps; p and O come from noise
    images, averaged along the line from the weights sent to those received. For one gradient this is
    the zero-shot rule of Geng et al. 2021 (arXiv:2110.09074), whose counts need not add up to N; here
    they do. Needs features whose sum is much the same on noise and on data, above all of one sign. Where the
    gradient's scale is unknown this is ``llg``.
    """
    if not evidence.scaled:
        return llg(evidence)
    n, noise = evidence.examples, outputs_on_noise(evidence)
    deviation = evidence.weight_gradient().sum(dim=1).cpu() / noise.feature_sum()
    estimate = n * (noise.probability() - deviation)
    return labels_from_counts(round_counts(estimate, zeros_like(estimate).long(), n))

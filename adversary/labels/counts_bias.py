"""Counts by the bias gradient, without the facts that ``counts`` adds."""

from __future__ import annotations

from torch import Tensor, zeros_like

from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.evidence import Evidence
from adversary.labels.noise import outputs_on_noise
from adversary.labels.rounding import labels_from_counts, round_counts


def counts_bias(evidence: Evidence) -> Tensor:
    """``n_c = B (p_c - grad b_c)`` with p the mean output on noise images, along the path of several steps.

    Follows from ``grad b_c = p_c - n_c / B``; exact if p is the batch's mean output. Holds for any activation, and
    its only error is that of p. Beside it ``counts`` sets first what holds whatever p is. Where the
    gradient's scale is unknown this is ``bias_corrected``.

    Raises:
        FedsimError: the last layer has no bias.
    """
    bias = evidence.bias_gradient_or_refuse("counts_bias")
    if not evidence.scaled:
        return bias_corrected(evidence)
    estimate = evidence.examples * (outputs_on_noise(evidence).probability() - bias.detach().cpu())
    return labels_from_counts(round_counts(estimate, zeros_like(estimate).long(), evidence.examples))

"""The classes whose rows of the last weight gradient reach lowest (GradInversion)."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.rounding import labels_from_presence


def yin(evidence: Evidence) -> Tensor:
    """The B classes whose rows of the weight gradient reach lowest (GradInversion, arXiv:2104.07586, equation 6).

    ``argsort_c min_j grad W_cj``, the first B. Assumes that no label occurs twice and that features are not
    negative. With more samples than classes the order of classes is gone through again. Needs no scale.
    """
    return labels_from_presence(evidence.weight_gradient().amin(dim=1).argsort(), evidence.examples)

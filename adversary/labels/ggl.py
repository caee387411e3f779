"""The classes with the lowest row sums of the last weight gradient (iDLG's and GGL's released rule)."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.rounding import labels_from_presence


def ggl(evidence: Evidence) -> Tensor:
    """The B classes whose rows of the weight gradient have the lowest sums (GGL, Li et al. 2022, arXiv:2203.15696).

    ``argsort_c sum_j grad W_cj``, the first B. The paper and its code, like iDLG's, take one image and one label;
    more are read in the manner of ``yin``, whose assumptions hold here too: no label twice, features not negative.
    A sum over all features suffers less from one unusual feature than a minimum. Needs no scale.
    """
    return labels_from_presence(evidence.weight_gradient().sum(dim=1).argsort(), evidence.examples)

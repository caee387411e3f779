"""The classes with a negative gradient, which are certain to be there."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.rounding import labels_from_presence


def analytic(evidence: Evidence) -> Tensor:
    """The classes ``{c : grad b_c < 0}`` (breaching's ``analytic``; Geng et al. 2021, arXiv:2110.09074).

    As ``grad b_c = p_c - n_c / B`` and p is not negative, each class found in a gradient is there; one with
    ``n_c / B < p_c`` is missed. It tells presence only: the classes found are gone through again, the most negative
    first, until B labels are set (breaching fills up with random classes). Without a bias of the row sums, if
    features are not negative. Over several steps a class may be negative by its order in the training alone.
    Needs no scale.
    """
    signal = evidence.class_signal()
    order = signal.argsort()
    found = max(1, int((signal < 0).sum()))  # a broken update must not stop the attack here
    return labels_from_presence(order[:found], evidence.examples)

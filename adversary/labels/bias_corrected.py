"""Negative entries of the bias gradient first, then greedily."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.greedy import greedy


def bias_corrected(evidence: Evidence) -> Tensor:
    """Negative entries once each, then greedily, correcting for what was taken (breaching's ``bias-corrected``).

    One sample counts for ``m = (1 / B) sum_{grad b_c < 0} grad b_c``. Needs no scale, hence serves where the
    learning rate is unknown; fails once B exceeds the classes, as entries of classes with ``n_c / B < p_c`` are
    positive and m comes out too small. Without a bias of the row sums, if features are not negative.
    """
    signal = evidence.class_signal().detach().cpu()
    impact = signal[signal < 0].sum() / evidence.examples
    return greedy(signal, impact, evidence.examples)

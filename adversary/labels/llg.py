"""Label leakage from gradients, the gradient alone (LLG)."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.greedy import greedy


def llg(evidence: Evidence) -> Tensor:
    """Greedily by the row sums of the weight gradient (LLG, Wainakh et al. 2021, arXiv:2105.09369).

    ``g_c = sum_j grad W_cj``; one sample counts for ``m = (1 / B) (1 + 1 / C) sum_{g_c < 0} g_c``, where
    ``1 + 1 / C`` makes up for a fresh network's p of 1 / C. Features must not be negative. Needs no scale. Fails as
    ``bias_corrected`` does. breaching's ``wainakh-simple`` takes m off a wrong class in the second pass, so
    that one class takes all labels that are left.
    """
    signal = evidence.weight_gradient().sum(dim=1)
    impact = (1 + 1 / evidence.knowledge.classes) * signal[signal < 0].sum() / evidence.examples
    return greedy(signal, impact.cpu(), evidence.examples)

"""Label leakage from gradients, with the model at hand (LLG*)."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.greedy import greedy
from adversary.labels.llg import llg
from adversary.labels.noise import outputs_on_noise


def llg_star(evidence: Evidence) -> Tensor:
    """``llg`` with impact and offsets measured on noise (LLG*, Wainakh et al. 2021, arXiv:2105.09369).

    With p and ``s = sum_j a_j`` of noise images, a batch labelled c throughout has ``g_c = mean (p_c - 1) s``,
    one without c ``g_c = mean p_c s``. The impact is the mean of the former over classes, times
    ``(1 + 1 / C) / B``; the offset of c is the latter. For an update of several steps the means go along the line from
    the weights sent to those received. Features must not be negative, or at least sum up to much the same on
    noise and on data. Where the gradient's scale is unknown this is ``llg``. LLG+, which measures on
    auxiliary samples of each class, asks for data that this adversary is not granted. breaching's
    ``wainakh-whitebox`` sums g over all classes, which is 0 for every batch, and so is its impact.
    """
    if not evidence.scaled:
        return llg(evidence)
    noise, classes = outputs_on_noise(evidence), evidence.knowledge.classes
    sums = noise.feature_sums.unsqueeze(-1)
    own = ((noise.probabilities - 1) * sums).mean()
    offset = (noise.probabilities * sums).mean(dim=(0, 1))
    impact = (1 + 1 / classes) * own / evidence.examples
    return greedy(evidence.weight_gradient().sum(dim=1), impact, evidence.examples, offset)

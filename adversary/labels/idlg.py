"""The label of one sample from the sign of the gradient (iDLG)."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.one import refuse_batches


def idlg(evidence: Evidence) -> Tensor:
    """The one class whose gradient is negative (iDLG, Zhao et al. 2020, arXiv:2001.02610, section 3.1).

    ``grad b_c = p_c - 1[c = y]`` is negative for y alone, whatever the activation. Without a bias the row
    sums of the weight serve, ``(p_c - 1[c = y]) sum_j a_j``, if the features a are not negative and not all
    zero. The released code reads the row sums always, and no label of a layer of signed features.

    Raises:
        FedsimError: the update rests on more than one example.
    """
    refuse_batches("idlg", evidence)
    return evidence.class_signal().argmin().view(1).cpu()

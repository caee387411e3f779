"""The labels as the threat model grants them."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from fedsim.errors import FedsimError


def given(evidence: Evidence) -> Tensor:
    """The true labels, where the threat model grants them."""
    if evidence.knowledge.labels is None:
        raise FedsimError("Label rule 'given' needs the labels. Grant 'labels' in the attack's knowledge.")
    return evidence.knowledge.labels.long().cpu()

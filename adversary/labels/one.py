"""What the rules that read a single label have in common."""

from __future__ import annotations

from adversary.labels.evidence import Evidence
from fedsim.errors import FedsimError


def refuse_batches(rule: str, evidence: Evidence) -> None:
    """Raise unless the update rests on one example."""
    if evidence.examples != 1:
        raise FedsimError(
            f"Label rule {rule!r} reads the label of one example, but the update rests on {evidence.examples}. "
            "Choose labels = 'counts'."
        )

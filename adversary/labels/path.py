"""Where on the way from the weights sent to those received the local steps began."""

from __future__ import annotations

from adversary.labels.evidence import Evidence

_POINTS = 5


def path_positions(evidence: Evidence) -> list[float]:
    """Positions in [0, 1), as if the steps lay evenly on a line; five stand for more steps.

    They are the centres of equal groups of ``0, 1 / steps, ..., (steps - 1) / steps``; 0 alone for one step.
    """
    steps = evidence.steps
    points = min(steps, _POINTS)
    return [(point + 0.5) / points - 0.5 / steps for point in range(points)]

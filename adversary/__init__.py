"""What a curious server computes from what it saw: attacks by name, their parts, and campaigns."""

from adversary import dlg, idlg, inverting_gradients, rgap  # noqa: F401  (each registers itself)
from adversary.attack import ATTACKS, Attack, Needs, Progress, check, failure
from fedsim.protocol import Knowledge, Reconstruction

__all__ = ["ATTACKS", "Attack", "Knowledge", "Needs", "Progress", "Reconstruction", "check", "failure"]

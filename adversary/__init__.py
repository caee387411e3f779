"""What a curious server computes from what it saw: attacks by name, their parts, and campaigns."""

from adversary import (  # noqa: F401  (each registers itself)
    adaptive,
    agic,
    dlg,
    fedavg_leakage,
    gidm,
    gidm_plus,
    gradinversion,
    idlg,
    inverting_gradients,
    midas,
    rgap,
    simulation,
    sme,
)
from adversary.attack import ATTACKS, Attack, Needs, Progress, check, failure
from fedsim.protocol import Knowledge, Reconstruction

__all__ = ["ATTACKS", "Attack", "Knowledge", "Needs", "Progress", "Reconstruction", "check", "failure"]

"""iDLG: improved deep leakage from gradients.

Zhao, Mopuri, Bilen. 2020. arXiv:2001.02610.
"""

from __future__ import annotations

from adversary.attack import ATTACKS, Needs
from adversary.inversion import LBFGS, Euclidean, Inversion, SingleGradient, Solver
from adversary.labels import idlg as label_of_one


@ATTACKS.register("idlg")
def idlg(
    *, iterations: int = 6_000, restarts: int = 4, seconds: float | None = None, learning_rate: float = 1.0
) -> Inversion:
    """Read the label of a single image off the gradient, then run DLG over the image alone.

    Args:
        iterations: evaluations of the objective in each restart.
        restarts: starting points tried until one fits.
        seconds: wall-clock budget of a victim.
        learning_rate: of L-BFGS.
    """
    return Inversion(
        labels=label_of_one,
        simulator=SingleGradient(),
        distance=Euclidean(relative=True),
        optimiser=LBFGS(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, tolerance=1e-9, patience=600, satisfied=1e-5),
        requires=Needs(max_examples=1, single_step=True),
    )

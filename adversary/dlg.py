"""DLG: deep leakage from gradients.

Zhu, Liu, Han. NeurIPS 2019. arXiv:1906.08935.
"""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS, ONE_GRADIENT, Needs
from adversary.inversion import LBFGS, Euclidean, Inversion, SingleGradient, Solver
from adversary.labels import LABEL_RULES


@ATTACKS.register("dlg")
def dlg(
    *,
    iterations: int = 6_000,
    restarts: int = 4,
    seconds: float | None = None,
    learning_rate: float = 1.0,
    labels: Literal["optimised", "counts", "given"] = "optimised",
) -> Inversion:
    """Match the gradient in Euclidean distance over images and soft labels together, with L-BFGS.

    No prior and no box, as in the paper. The paper's 300 steps of up to 20 evaluations each are 6,000
    iterations here. The search diverges or stalls from some starts; it is begun again until a start
    fits the gradient, which the attack itself can tell. Gradients of a diffusion loss have no labels; noise and steps
    must be granted.

    Args:
        iterations: evaluations of the objective in each restart.
        restarts: starting points tried until one fits.
        seconds: wall-clock budget of a victim.
        learning_rate: of L-BFGS.
        labels: ``optimised`` as in the paper, or how to recover them beforehand.
    """
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=SingleGradient(),
        distance=Euclidean(relative=True),
        optimiser=LBFGS(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, tolerance=1e-9, patience=600, satisfied=1e-5),
        requires=Needs(single_step=True, objectives=ONE_GRADIENT),
    )

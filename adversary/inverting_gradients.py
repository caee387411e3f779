"""Inverting Gradients: how easy is it to break privacy in federated learning?

Geiping, Bauermeister, Dröge, Moeller. NeurIPS 2020. arXiv:2003.14053.
"""

from __future__ import annotations

from adversary.attack import ATTACKS, ONE_GRADIENT, Needs
from adversary.inversion import Cosine, Inversion, SignAdam, SingleGradient, Solver, TotalVariation
from adversary.labels import LABEL_RULES, Recovery


@ATTACKS.register("inverting_gradients")
def inverting_gradients(
    *,
    iterations: int = 2_000,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 1e-5,
    learning_rate: float = 0.1,
    labels: Recovery = "counts",
) -> Inversion:
    """Match the direction of the gradient, with a prior for smooth images, by signed Adam.

    An update of several local steps is taken for one gradient, whose scale the cosine ignores. Of a diffusion loss
    the gradient must be of one step, and noise and steps granted.

    Two choices differ from the authors' code. The total variation is measured on images in [0, 1] and weighs
    1e-5: on fresh networks the gradient alone decides nearly everything, and more of the prior blurs; where the search
    ends far from the gradient, as on a sigmoid LeNet after some hundred iterations, 0.05 and more help. And the
    iterate with the least objective is kept, among those of the last and smallest step size: with ReLU the
    objective jumps, and low values met at large steps are luck (the authors return the last iterate).

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        learning_rate: of Adam, on the network's inputs.
        labels: how to recover the labels; ``given`` must be granted.
    """
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=SingleGradient(),
        distance=Cosine(),
        prior=TotalVariation(total_variation),
        optimiser=SignAdam(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, settled=7 / 8),
        requires=Needs(objectives=ONE_GRADIENT),
    )

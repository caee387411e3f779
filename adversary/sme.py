"""SME: surrogate model extension.

Zhu, Yao, Blaschko. ICML 2023. arXiv:2306.00127. Code: JunyiZhu-AI/surrogate_model_extension.
"""

from __future__ import annotations

from adversary.attack import ATTACKS, Needs
from adversary.inversion import Adam, Cosine, Inversion, LearnedPath, PathGradient, Simulator, Solver, TotalVariation
from adversary.labels import LABEL_RULES, Recovery


@ATTACKS.register("sme")
def sme(
    *,
    iterations: int = 2_000,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 1e-5,
    learning_rate: float = 1.0,
    start: float = 0.5,
    position_rate: float = 0.001,
    labels: Recovery = "counts",
) -> Inversion:
    """Take the update for one gradient at a point between the weights sent and received, and learn which point.

    The inputs and the point are searched for together, by unsigned Adam with the authors' step sizes. One
    iteration costs little more than that of one gradient, however many local steps there were.

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        learning_rate: of Adam, on the network's inputs.
        start: the point at first: 0 is the weights sent, 1 those received.
        position_rate: Adam's step size for the point, beside that of the inputs; 0 leaves it at ``start``.
        labels: how to recover the labels; ``given`` must be granted.
    """
    simulator: Simulator = PathGradient(start)
    if position_rate:
        simulator = LearnedPath(start, step=position_rate / learning_rate)
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=simulator,
        distance=Cosine(),
        prior=TotalVariation(total_variation),
        optimiser=Adam(learning_rate=learning_rate, decay_at=(3 / 8, 5 / 8, 7 / 8)),
        solver=Solver(iterations, restarts, seconds, settled=7 / 8),
        requires=Needs(kinds=frozenset({"model"}), observations=None),
    )

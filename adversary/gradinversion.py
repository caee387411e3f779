"""GradInversion: see through gradients.

Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. CVPR 2021. arXiv:2104.07586. No code of the authors' is known.
"""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS
from adversary.inversion import (
    BatchStatistics,
    Inversion,
    LangevinAdam,
    Magnitude,
    Observing,
    Prior,
    SingleGradient,
    Solver,
    TensorNorms,
    Together,
    TotalVariation,
)
from adversary.labels import LABEL_RULES, Recovery


@ATTACKS.register("gradinversion")
def gradinversion(
    *,
    iterations: int = 2_000,
    restarts: int = 4,
    seconds: float | None = None,
    total_variation: float = 1e-3,
    magnitude: float = 1e-6,
    batch_norm: Literal["batch", "running", "none"] = "batch",
    batch_norm_weight: float = 0.1,
    consistency: float = 1e-2,
    learning_rate: float = 0.1,
    noise: float = 0.2,
    labels: Recovery = "yin",
) -> Inversion:
    """Match the gradient tensor by tensor, with strong priors: batch-norm statistics, and agreement of all restarts.

    An update of several local steps is taken for one gradient. The label rule ``yin`` takes the labels of a
    batch to differ.

    What the paper does otherwise: its mean of the group is registered by optical flow, and counts from a quarter
    of the iterations on; it takes the exact statistics of the batch for granted (see ``BatchStatistics``); its weights,
    of gradients that are not divided by their size, are 1e-3 for the gradient, 1e-4 for the total variation,
    1e-6, 0.1 and 1e-2 for the rest; its group has 8 members.

    Args:
        iterations: optimiser steps; each one gradient for each restart.
        restarts: starting points, which are searched together and pulled to their mean.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        magnitude: weight of the root mean square of the images around mid-grey.
        batch_norm: statistics that are matched: of the batch where the client's answer shows them, the running
            ones that were sent, or none.
        batch_norm_weight: of that prior.
        consistency: weight of the distance from the mean of all restarts.
        learning_rate: of Adam, on the network's inputs.
        noise: of each step, in step sizes.
        labels: how to recover the labels; ``given`` must be granted.
    """
    priors: tuple[Prior | Observing, ...] = (TotalVariation(total_variation), Magnitude(magnitude))
    if batch_norm != "none":
        priors += (BatchStatistics(batch_norm_weight, batch_norm),)
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=SingleGradient(),
        distance=TensorNorms(),
        prior=Together(priors),
        optimiser=LangevinAdam(learning_rate=learning_rate, noise=noise),
        solver=Solver(iterations, seconds=seconds, settled=7 / 8),
        group=restarts,
        consistency=consistency,
    )

"""Data leakage in federated averaging.

Dimitrov, Balunović, Konstantinov, Vechev. TMLR 2022. arXiv:2206.12395. Code: eth-sri/fedavg_leakage.
"""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS, Needs
from adversary.inversion import (
    Adam,
    Euclidean,
    Inversion,
    OutOfRange,
    SameImages,
    Solver,
    Together,
    TotalVariation,
    Unrolled,
    Weighted,
)
from adversary.inversion.weights import decreasing_with_depth
from adversary.labels import LABEL_RULES, Recovery


@ATTACKS.register("fedavg_leakage")
def fedavg_leakage(
    *,
    iterations: int = 400,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 2e-4,
    range_weight: float = 10.0,
    tie: float = 6.075,
    features: Literal["convolution", "pixels"] = "convolution",
    pool: Literal["max", "mean"] = "max",
    depth_rate: float = 1.0,
    learning_rate: float = 0.1,
    recompute: bool = False,
    labels: Recovery = "counts",
) -> Inversion:
    """Replay the client's epochs, each on a copy of the images of its own, and tie the copies whatever their order.

    So the shuffling from epoch to epoch need not be known. The images returned are the mean of the copies, each
    put into the order of the first. Time, memory and the number of unknowns grow with the local epochs.

    The weights are those that the authors use on CIFAR-100. Two choices differ from their code: the distance is
    divided by the size of the update, so that the weights mean the same for any; and its factor, which falls from 4
    to 2 in the first half, stays 1, so that the objective means the same in every iteration.

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        range_weight: weight of the penalty for pixels outside [0, 1], in place of a box.
        tie: weight of the penalty for copies that differ.
        features: what of the images is compared between copies.
        pool: how the images of a copy are put together for that.
        depth_rate: layer weights fall by ``exp(-rate)`` from layer to layer; 0 weighs all alike.
        learning_rate: of Adam, on the network's inputs.
        recompute: less memory for more time.
        labels: how to recover the labels; ``given`` must be granted.
    """
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=Unrolled("copies", recompute=recompute),
        distance=Weighted(Euclidean(relative=True), decreasing_with_depth(depth_rate)),
        prior=Together(
            (TotalVariation(total_variation), OutOfRange(range_weight), SameImages(tie, features=features, pool=pool))
        ),
        optimiser=Adam(learning_rate=learning_rate, boxed=False),
        solver=Solver(iterations, restarts, seconds),
        requires=Needs(plan=True),
    )

"""AGIC: approximate gradient inversion of model updates.

Xu, Hong, Huang, Chen, Decouchant. SRDS 2022. arXiv:2204.13784. No code of the authors' is known: a reconstruction.
"""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS, Needs
from adversary.inversion import Cosine, Inversion, PooledGradient, SignAdam, Solver, TotalVariation, Weighted
from adversary.inversion.weights import compensating, increasing_with_depth
from adversary.labels import LABEL_RULES, Recovery
from fedsim.protocol import Grant


@ATTACKS.register("agic")
def agic(
    *,
    iterations: int = 2_000,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 1e-5,
    learning_rate: float = 0.1,
    depth_gain: float = 20.0,
    compensate_pruning: bool = False,
    combine: Literal["mean", "concat"] = "mean",
    batch_order: Literal["unknown", "given"] = "unknown",
    labels: Recovery = "counts",
) -> Inversion:
    """Invert a model update as if one gradient over all local samples had caused it, over one or several rounds.

    The client's steps are not simulated: the update is taken for a multiple of the gradient at the
    global weights, whose scale the cosine ignores. One iteration so costs the same however many local
    epochs there were. Several observations of one victim are used together if they are of the same examples.

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        learning_rate: of Adam, on the network's inputs.
        depth_gain: weight of the last layer over the first; 1 weighs all alike. The authors'
            value is not published; this one comes from code of the same group, which also uses 50.
        compensate_pruning: weigh each tensor, but for the output layer's, by its entries over those that are not
            zero, as what a client that prunes sends of the large tensors would count too little.
        combine: the mean of the rounds' cosines, or one cosine over the tensors of all rounds.
        batch_order: whether examples weigh by the batches they were in, which must be granted, or alike.
        labels: how to recover the labels; ``given`` must be granted.
    """
    weights = increasing_with_depth(depth_gain)
    granted: frozenset[Grant] = frozenset({"batch_order"} if batch_order == "given" else ())
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=PooledGradient(order_known=batch_order == "given"),
        distance=Weighted(Cosine(), compensating(weights) if compensate_pruning else weights),
        prior=TotalVariation(total_variation),
        optimiser=SignAdam(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, settled=7 / 8),
        requires=Needs(observations=1 if granted else None, grants=granted),
        combine=combine,
    )

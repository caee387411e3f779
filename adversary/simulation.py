"""The simulation attack: inverting a model update through the client's whole training.

Geiping, Bauermeister, Dröge, Moeller. NeurIPS 2020. arXiv:2003.14053, section 6 and appendix; in the authors' code
``FedAvgReconstructor``.
"""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS, Needs
from adversary.inversion import Cosine, Inversion, SignAdam, Solver, TotalVariation, Unrolled
from adversary.labels import LABEL_RULES, Recovery
from fedsim.errors import invalid
from fedsim.protocol import Grant


@ATTACKS.register("simulation")
def simulation(
    *,
    iterations: int = 2_000,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 1e-5,
    learning_rate: float = 0.1,
    batch_order: Literal["shuffled", "pooled", "given"] = "shuffled",
    recompute: bool = False,
    labels: Recovery = "counts",
) -> Inversion:
    """Replay the client's local steps on the candidate images, and match the update that comes out.

    Exact where the order of batches is known or there is one batch an epoch. Time and memory of an iteration
    grow with the number of local steps.

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        learning_rate: of Adam, on the network's inputs.
        batch_order: ``given`` must be granted, and the labels with it; ``shuffled`` is a guess; ``pooled`` takes
            the batches of an epoch together.
        recompute: less memory for more time.
        labels: how to recover the labels; ``given`` must be granted.

    Raises:
        FedsimError: the order is to be ``given``, but not the labels.
    """
    if batch_order == "given" and labels != "given":
        # The order says which example was in which batch, and recovered labels are not those of any example.
        raise invalid("simulation: labels", labels, "says nothing of which example has it", "Set labels = 'given' too")
    granted: frozenset[Grant] = frozenset({"batch_order"} if batch_order == "given" else ())
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=Unrolled(batch_order, recompute=recompute),
        distance=Cosine(),
        prior=TotalVariation(total_variation),
        optimiser=SignAdam(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, settled=7 / 8),
        requires=Needs(observations=1 if granted else None, grants=granted, plan=True),
    )

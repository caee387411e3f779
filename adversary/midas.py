"""MIDAS: a midpoint gradient, adjusted by simulation. fedsim's own; derived and measured in ``docs/midas.md``."""

from __future__ import annotations

from typing import Literal

from adversary.attack import ATTACKS, Needs
from adversary.inversion import Corrected, Cosine, Inversion, SignAdam, Solver, TotalVariation, Unrolled
from adversary.labels import LABEL_RULES, Recovery
from fedsim.errors import invalid
from fedsim.protocol import Grant


@ATTACKS.register("midas")
def midas(
    *,
    iterations: int = 2_000,
    restarts: int = 1,
    seconds: float | None = None,
    total_variation: float = 1e-5,
    learning_rate: float = 0.1,
    correct_every: int = 25,
    batch_order: Literal["shuffled", "pooled", "given"] = "pooled",
    labels: Recovery = "counts",
) -> Inversion:
    """Match one gradient from the middle of the client's way, and correct what it leaves out by replaying the client.

    What comes out solves the same equation as ``simulation``, with which it shares every assumption; but only
    one iteration in ``correct_every`` replays the local steps, and without derivatives. With one local step
    this is ``inverting_gradients``.

    Args:
        iterations: optimiser steps in each restart.
        restarts: starting points tried; the one with the least objective is kept.
        seconds: wall-clock budget of a victim.
        total_variation: weight of the smoothness prior, on images in [0, 1].
        learning_rate: of Adam, on the network's inputs.
        correct_every: iterations between corrections.
        batch_order: of the replay: ``pooled`` takes the batches of an epoch together; ``shuffled`` is a guess;
            ``given`` must be granted, and the labels with it.
        labels: how to recover the labels; ``given`` must be granted.

    Raises:
        FedsimError: the order is to be ``given``, but not the labels; or corrections come less than every iteration.
    """
    if correct_every < 1:
        raise invalid("midas: correct_every", correct_every, "must be 1 or more", "The default is 25")
    if batch_order == "given" and labels != "given":
        raise invalid("midas: labels", labels, "says nothing of which example has it", "Set labels = 'given' too")
    granted: frozenset[Grant] = frozenset({"batch_order"} if batch_order == "given" else ())
    return Inversion(
        labels=LABEL_RULES[labels],
        simulator=Corrected(Unrolled(batch_order), every=correct_every),
        distance=Cosine(),
        prior=TotalVariation(total_variation),
        optimiser=SignAdam(learning_rate=learning_rate),
        solver=Solver(iterations, restarts, seconds, settled=7 / 8),
        requires=Needs(observations=1 if granted else None, grants=granted, plan=True),
    )

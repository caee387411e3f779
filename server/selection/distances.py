"""Distances between label distributions, for FedEMD; which one the paper means is not settled, hence several.

A distance compares the counts of clients with the counts of a whole: both are normalised first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Profile

Distance = Literal["l1", "wasserstein_sorted", "wasserstein_classes", "earth_mover"]
Normalisation = Literal["mean1", "reference_class"]
Counts = NDArray[np.float64]


def label_counts(profiles: Sequence[Profile]) -> Counts:
    """Label counts, float64 [clients, classes]."""
    if any(profile.label_counts is None for profile in profiles):
        silent = next(profile.client for profile in profiles if profile.label_counts is None)
        raise FedsimError(
            f"the selector needs label histograms, and client {silent} does not share its own. "
            "Let clients share them (share_labels), or choose a selector that does not need them."
        )
    return np.array([profile.label_counts for profile in profiles], dtype=np.float64)


def normalised(counts: Counts, how: Normalisation = "mean1", reference: int = 0) -> Counts:
    """Counts on a common scale.

    Args:
        counts: not all 0 in a row, float64 [..., classes].
        how: ``mean1`` divides by the mean over classes, so that a uniform distribution is all ones;
            ``reference_class`` divides by the count of one class, as the authors' code does.
        reference: that class.

    Raises:
        FedsimError: the reference class is not there, or out of range, or there are no examples at all.
    """
    if how == "mean1":
        scale = counts.mean(axis=-1, keepdims=True)
        if (scale == 0).any():
            raise FedsimError("label counts: a client says that it has no example at all. Leave it out.")
    else:
        if not 0 <= reference < counts.shape[-1]:
            raise invalid("reference_class", reference, f"is no class of 0 to {counts.shape[-1] - 1}", "Correct it")
        scale = counts[..., reference : reference + 1]
        if (scale == 0).any():
            raise invalid("reference_class", reference, "a client has no example of it", 'Use normalisation = "mean1"')
    result: Counts = counts / scale
    return result


def distance(name: Distance, ground: Counts | None = None) -> Callable[[Counts, Counts], NDArray[np.float64]]:
    """A function of ``(clients [N, classes], whole [classes])``, both normalised, that gives distances [N].

    Args:
        name: ``l1``: mean over classes of the absolute difference. ``wasserstein_sorted``: as the authors' code
            computes it, SciPy's 1-Wasserstein distance between the two vectors taken as samples, so that it cannot
            tell which class is which. ``wasserstein_classes``: 1-Wasserstein distance between the two distributions
            over the class numbers, where a class is as far from another as their numbers are.
            ``earth_mover``: optimal transport under a ground metric between classes.
        ground: for ``earth_mover`` the distance between each two classes, [classes, classes]; by default 1 between
            any two, which makes it half the L1 distance of the distributions.

    Raises:
        FedsimError: a ground metric that is none, or beside another distance.
    """
    if ground is not None and name != "earth_mover":
        raise invalid("ground", "given", f"has no meaning for the distance {name}", 'Use distance = "earth_mover"')
    if name == "earth_mover":
        return lambda clients, whole: earth_mover(clients, whole, ground)
    return {"l1": l1, "wasserstein_sorted": wasserstein_sorted, "wasserstein_classes": wasserstein_classes}[name]


def l1(clients: Counts, whole: Counts) -> NDArray[np.float64]:
    """Mean absolute difference over classes."""
    found: NDArray[np.float64] = np.abs(clients - whole).mean(axis=1)
    return found


def wasserstein_sorted(clients: Counts, whole: Counts) -> NDArray[np.float64]:
    """1-Wasserstein distance of the entries as samples: for as many of them, the mean difference of sorted ones."""
    found: NDArray[np.float64] = np.abs(np.sort(clients, axis=1) - np.sort(whole)).mean(axis=1)
    return found


def wasserstein_classes(clients: Counts, whole: Counts) -> NDArray[np.float64]:
    """1-Wasserstein distance of the distributions over the class numbers."""
    classes = np.arange(len(whole))
    return np.array([wasserstein_distance(classes, classes, client, whole) for client in clients])


def earth_mover(clients: Counts, whole: Counts, ground: Counts | None = None) -> NDArray[np.float64]:
    """Cost of moving each client's distribution onto that of the whole, by a linear programme for all clients.

    Args:
        clients: [N, classes].
        whole: [classes].
        ground: cost of moving all from a class to another, [classes, classes]; 1 between any two by default.

    Raises:
        FedsimError: the ground metric has another shape or negative entries.
    """
    number, classes = clients.shape
    if ground is None:
        ground = 1 - np.eye(classes)
    if ground.shape != (classes, classes) or (ground < 0).any():
        raise invalid("ground", list(ground.shape), f"must be {classes} x {classes} costs, none negative", "Correct it")
    supply = clients / clients.sum(axis=1, keepdims=True)
    demand = whole / whole.sum()
    # Flows f[client, from, to], flattened: their sums over "to" are the supply, over "from" the demand.
    one, ones = sparse.eye_array(classes), np.ones((1, classes))
    marginals = sparse.vstack([sparse.kron(one, ones), sparse.kron(ones, one)])
    wanted = np.concatenate([supply, np.tile(demand, (number, 1))], axis=1)
    solved = linprog(
        np.tile(ground.ravel(), number),
        A_eq=sparse.kron(sparse.eye_array(number), marginals).tocsc(),
        b_eq=wanted.ravel(),
        method="highs",
    )
    if not solved.success:
        raise FedsimError(f"the earth mover's distance could not be computed: {solved.message}")
    return (solved.x.reshape(number, -1) * ground.ravel()).sum(axis=1)  # type: ignore[no-any-return]

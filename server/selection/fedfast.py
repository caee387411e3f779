"""FedFast: clients in clusters, and one of each cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from fedsim.protocol import Profile
from server.selection.distances import label_counts, normalised
from server.selection.selector import SELECTORS, Choice, Need, Pool, RoundOutcome, State, fill


@SELECTORS.register("fedfast")
class FedFast:
    """One client of each cluster of label histograms (Muhammad et al., KDD 2020, doi:10.1145/3394486.3403176).

    FedFast clusters the clients of a recommender by their embeddings; for classification, as in the Maverick study,
    their histograms take that place. There are as many clusters as seats, made by k-means in the first round.
    Where histograms are so alike that clusters stay empty, their seats are drawn from all that are left.

    Args:
        normalised: whether histograms are scaled to the same sum first. With raw counts, as the study has them, a
            Maverick with much data is a cluster of its own and is selected every round.
    """

    needs: frozenset[Need] = frozenset({"label_counts"})

    def __init__(self, *, normalised: bool = True) -> None:
        self.normalised = normalised

    def init(self, candidates: Sequence[Profile]) -> State:  # noqa: ARG002
        """``clusters``: the cluster of each client, once they are made."""
        return {"clusters": {}}

    def choose(self, state: State, pool: Pool) -> Choice:
        known: Mapping[int, int] = state["clusters"] or self._clusters(pool)
        cluster = np.array([known[profile.client] for profile in pool.candidates])
        labels, sizes = np.unique(cluster, return_counts=True)
        chosen = np.array([pool.generator.choice(np.flatnonzero(cluster == label)) for label in labels])
        chances = 1 / (pool.size * sizes[np.searchsorted(labels, cluster)])
        chances = chances + (1 - chances.sum()) / len(cluster)
        return Choice(fill(chosen, len(cluster), pool.size, pool.generator), chances, {"clusters": known})

    def update(self, state: State, outcome: RoundOutcome) -> State:  # noqa: ARG002
        return state

    def _clusters(self, pool: Pool) -> dict[int, int]:
        points = label_counts(pool.candidates)
        if self.normalised:
            points = normalised(points)
        found = _kmeans(points, pool.size, pool.generator)
        return {profile.client: int(label) for profile, label in zip(pool.candidates, found, strict=True)}


def _kmeans(points: NDArray[np.float64], clusters: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The cluster of each point, by Lloyd's algorithm from k-means++ centres."""
    different = np.unique(points, axis=0)
    centres = [different[generator.integers(len(different))]]
    for _ in range(min(clusters, len(different)) - 1):
        nearest = np.min([((different - centre) ** 2).sum(axis=1) for centre in centres], axis=0)
        centres.append(different[generator.choice(len(different), p=nearest / nearest.sum())])
    # Given its centres, SciPy's k-means draws nothing; a cluster that empties keeps its centre.
    return kmeans2(points, np.array(centres), iter=100, minit="matrix", missing="warn")[1].astype(np.int64)  # type: ignore[no-any-return]

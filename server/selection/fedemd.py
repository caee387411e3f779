"""FedEMD: early on the clients that are far from the global distribution, later those that are not yet covered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import invalid
from fedsim.protocol import Profile
from server.selection.distances import Counts, Distance, Normalisation, label_counts, normalised
from server.selection.distances import distance as make_distance
from server.selection.selector import SELECTORS, Need, RoundOutcome, State, softmax


@SELECTORS.register("fedemd")
class FedEMD:
    """Mavericks early, and ever less of what was seen often (Huang et al., PAKDD 2023, arXiv:2106.10734).

    With ``P_i`` the normalised label counts of client i, ``P_g`` those of all clients together and ``P_c(t)`` those
    of all that was selected before round t (a client counts each time):

        p_i(t) = softmax_i(alpha d(P_i, P_g) - beta t d(P_i, P_c(t)))

    ``P_c`` starts from nothing, the second term then being 0, and is normalised like the clients are: compared
    with raw counts, as in the code published, scale drowns the distance, and a Maverick is drawn more often late.

    Args:
        alpha: weight of the distance from all clients.
        beta: weight, a round, of the distance from what was selected; the preference turns around near the round
            alpha / beta.
        distance: ``l1``, ``wasserstein_sorted`` (as the authors' code computes it), ``wasserstein_classes`` or
            ``earth_mover``; see ``server.selection.distances``. The authors' alpha = 0.15 and beta = 0.0015 belong to
            ``wasserstein_sorted`` with ``reference_class``; the defaults here give a Maverick the same start.
        normalisation: of counts, ``mean1`` or ``reference_class`` (the authors').
        reference_class: the class to divide by (the authors' 9).
        minmax: whether each of the two distances is stretched to [0, 1] over the clients.
        ground: for ``earth_mover``, the distance between each two classes; 1 by default.
    """

    needs: frozenset[Need] = frozenset({"label_counts"})

    def __init__(
        self,
        alpha: float = 0.55,
        beta: float = 0.0055,
        distance: Distance = "l1",
        normalisation: Normalisation = "mean1",
        reference_class: int = 9,
        *,
        minmax: bool = False,
        ground: list[list[float]] | None = None,
    ) -> None:
        if alpha < 0 or beta < 0:
            raise invalid("alpha or beta", min(alpha, beta), "must not be negative", "Correct it")
        self.alpha, self.beta, self.minmax = alpha, beta, minmax
        self._distance = make_distance(distance, None if ground is None else np.asarray(ground, dtype=np.float64))
        self._normalisation, self._reference = normalisation, reference_class

    def init(self, candidates: Sequence[Profile]) -> State:
        """``seen``: label counts over all selections so far, float64 [classes]."""
        return {"seen": np.zeros(label_counts(candidates).shape[1])}

    def probabilities(self, state: State, round: int, candidates: Sequence[Profile]) -> NDArray[np.float64]:
        counts = label_counts(candidates)
        seen: Counts = state["seen"]
        far_from_all = self._far(counts, counts.sum(axis=0))
        far_from_seen = self._far(counts, seen) if seen.any() else np.zeros(len(counts))
        return softmax(self.alpha * far_from_all - self.beta * round * far_from_seen)

    def update(self, state: State, outcome: RoundOutcome) -> State:
        return {"seen": state["seen"] + label_counts(outcome.selected).sum(axis=0)}

    def _far(self, counts: Counts, whole: Counts) -> NDArray[np.float64]:
        clients, of_whole = (normalised(each, self._normalisation, self._reference) for each in (counts, whole))
        found = self._distance(clients, of_whole)
        if not self.minmax:
            return found
        width = np.ptp(found)
        stretched: NDArray[np.float64] = (found - found.min()) / width if width > 0 else np.zeros_like(found)
        return stretched

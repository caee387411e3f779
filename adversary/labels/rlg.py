"""Which classes are there, by linear programs over the column space of the last weight gradient (RLG)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.rounding import labels_from_presence

_SLACK = 1e-4


def rlg(evidence: Evidence) -> Tensor:
    """The classes that one sample could have (RLG, Dang et al. 2021, NeurIPS 2021, arXiv:2111.00556).

    ``grad W = G^T A / B`` with rows ``G_i = p_i - e_{y_i}``, which have one negative entry, at the label, and lie in
    the column space of grad W where features are linearly independent. A class c is taken for present if that
    space, basis U, holds such a vector:

        exists r with (U r)_c = -1 and (U r)_k >= 0 for all other k

    which a linear program decides. Needs no bias, scale or sign of features. Tells presence only: classes are gone
    through again, the most negative first, until B labels are set. Nothing is learned once the rank of grad W,
    the number of samples or so, comes to C - 1: then every class has such a vector. The released search by
    perceptrons on shuffled columns, which the program confirms, is left out.
    """
    rows = torch.nan_to_num(evidence.weight_gradient().detach().cpu())
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    rank = max(1, int((values > values.max() * max(rows.shape) * torch.finfo(rows.dtype).eps).sum()))
    basis = left[:, :rank].double().numpy()
    order = evidence.class_signal().argsort().cpu()
    present = [c for c in order.tolist() if _separable(basis, c)]
    return labels_from_presence(torch.tensor(present or order[:1].tolist()), evidence.examples)


def _separable(basis: np.ndarray, chosen: int) -> bool:
    """Whether the space holds a vector that is -1 at ``chosen`` and not negative elsewhere."""
    others = np.delete(basis, chosen, axis=0)
    found = linprog(
        np.zeros(basis.shape[1]),
        A_ub=-others,
        b_ub=np.full(len(others), _SLACK),  # rounding errors of the gradient
        A_eq=basis[[chosen]],
        b_eq=[-1.0],
        bounds=(None, None),
    )
    return bool(found.status == 0)

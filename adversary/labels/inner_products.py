"""The label of one sample from the angles between the rows of the last weight gradient."""

from __future__ import annotations

from torch import Tensor

from adversary.labels.evidence import Evidence
from adversary.labels.one import refuse_batches


def inner_products(evidence: Evidence) -> Tensor:
    """The class whose row of the weight gradient points away from all others (iDLG, arXiv:2001.02610, section 3.1).

    With one sample, ``grad W_c . grad W_k = (p_c - 1[c = y]) (p_k - 1[k = y]) |a|^2``: of a row other than
    y's the products with all rows but one are positive, of y's own row none is. Needs neither a bias nor a
    sign of the features, only three classes or more and features that are not all zero. The paper asks for
    products that are all negative; rounding breaks that where p is 0, so the least largest product is taken.

    Raises:
        FedsimError: the update rests on more than one example.
    """
    refuse_batches("inner_products", evidence)
    rows = evidence.weight_gradient().double()
    products = rows @ rows.T
    products.fill_diagonal_(-float("inf"))
    return products.amax(dim=1).argmin().view(1).cpu()

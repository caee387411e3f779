"""Label recovery: what the last layer's gradient says about the labels of a batch.

With the mean cross-entropy over B samples, softmax outputs p and the last layer ``z = W a + b``:

    grad b_c = mean_i p_ic - n_c / B          grad W_c = mean_i (p_ic - 1[y_i = c]) a_i

where ``n_c`` counts the samples of class c. Each rule maps ``Evidence`` to labels, int64 [N], in ascending
order: an update says nothing about the order of its samples.
"""

from __future__ import annotations

from typing import Literal

from adversary.labels.analytic import analytic
from adversary.labels.bias_corrected import bias_corrected
from adversary.labels.class_embedding import class_embedding, told
from adversary.labels.class_features import class_features
from adversary.labels.counts import counts
from adversary.labels.counts_bias import counts_bias
from adversary.labels.dimitrov import dimitrov
from adversary.labels.evidence import Evidence, LabelRule
from adversary.labels.ggl import ggl
from adversary.labels.given import given
from adversary.labels.idlg import idlg
from adversary.labels.ilrg import ilrg
from adversary.labels.inner_products import inner_products
from adversary.labels.llg import llg
from adversary.labels.llg_star import llg_star
from adversary.labels.optimised import optimised
from adversary.labels.rlg import rlg
from adversary.labels.rlu import rlu
from adversary.labels.rounding import labels_from_counts, labels_from_presence, round_counts
from adversary.labels.yin import yin

__all__ = [
    "LABEL_RULES",
    "Evidence",
    "LabelRule",
    "Recovery",
    "analytic",
    "bias_corrected",
    "class_embedding",
    "class_features",
    "counts",
    "counts_bias",
    "dimitrov",
    "ggl",
    "given",
    "idlg",
    "ilrg",
    "inner_products",
    "labels_from_counts",
    "labels_from_presence",
    "llg",
    "llg_star",
    "optimised",
    "rlg",
    "rlu",
    "round_counts",
    "told",
    "yin",
]

Recovery = Literal[
    "counts",
    "counts_bias",
    "dimitrov",
    "class_features",
    "ilrg",
    "rlu",
    "llg",
    "llg_star",
    "bias_corrected",
    "analytic",
    "rlg",
    "yin",
    "ggl",
    "idlg",
    "inner_products",
    "given",
    "optimised",
]
"""Label rules by the name that configurations use."""

LABEL_RULES: dict[str, LabelRule] = {
    "counts": counts,
    "counts_bias": counts_bias,
    "dimitrov": dimitrov,
    "class_features": class_features,
    "ilrg": ilrg,
    "rlu": rlu,
    "llg": llg,
    "llg_star": llg_star,
    "bias_corrected": bias_corrected,
    "analytic": analytic,
    "rlg": rlg,
    "yin": yin,
    "ggl": ggl,
    "idlg": idlg,
    "inner_products": inner_products,
    "given": given,
    "optimised": optimised,
}
"""The rule of each name."""

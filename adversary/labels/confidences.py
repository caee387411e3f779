"""What the last layer answers to features read off its own gradient, and the counts that explain the bias gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional

from adversary.labels.evidence import Evidence


def features_of_classes(weight: Tensor, bias: Tensor) -> Tensor:
    """One feature vector a class, ``grad W_c / grad b_c``, float64 [classes, features].

    Both sum over samples with the weights ``p_ic - 1[y_i = c]``: their quotient is the feature itself where all
    samples share it, and near the mean over the samples of c where they dominate. Zeros where it is not finite.

    Args:
        weight: gradient of the last weight, [classes, features].
        bias: gradient of the last bias, [classes].
    """
    quotient = weight.double() / bias.double().unsqueeze(1)
    return torch.where(quotient.isfinite(), quotient, torch.zeros_like(quotient))


def confidences(evidence: Evidence, features: Tensor, positions: Sequence[float]) -> Tensor:
    """Softmax outputs of each class's features, float64 [classes of the features, classes], mean over positions."""
    layers = [evidence.last_weights(along) for along in positions]
    outputs = [functional.softmax(functional.linear(features, w, b), dim=1) for w, b in layers]
    return torch.stack(outputs).mean(dim=0)


def linear_system(confidence: Tensor, bias: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Equations for the counts n: ``sum_k n_k (q_kc - 1[k = c]) = B grad b_c`` for each c, and ``sum_k n_k = B``.

    Args:
        confidence: q, [classes, classes].
        bias: gradient of the last bias, [classes].
        total: samples, B.

    Returns:
        Matrix [classes + 1, classes] and right-hand side [classes + 1], float64.
    """
    matrix = confidence.T - torch.eye(len(confidence), dtype=torch.float64)
    right = torch.cat([total * bias.double(), torch.tensor([float(total)], dtype=torch.float64)])
    return torch.cat([matrix, torch.ones(1, len(confidence), dtype=torch.float64)]), right


def not_negative_solution(matrix: Tensor, right: Tensor) -> Tensor:
    """Least squares over counts that are not negative, float64 [classes]."""
    right = torch.nan_to_num(right, posinf=0.0, neginf=0.0)  # a broken update must not stop the attack here
    found, _ = nnls(torch.nan_to_num(matrix).numpy(), right.numpy())
    return torch.from_numpy(found)

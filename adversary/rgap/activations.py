"""Inverses of activations that have one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def invertible(activation: nn.Module | None) -> bool:
    """Whether ``inverse_of`` knows the module and it rises strictly."""
    match activation:
        case nn.LeakyReLU():
            return activation.negative_slope > 0
        case nn.ELU():
            return activation.alpha > 0
        case nn.Softplus():
            return activation.threshold >= 20  # PyTorch's goes over to a line there, by a jump of e^-threshold
        case nn.Sigmoid() | nn.Tanh():
            return True
    return False


def inverse_of(activation: nn.Module, outputs: Tensor) -> Tensor:
    """The inputs at which an activation takes these values.

    Rounding can carry recovered values out of the activation's range; they are first put back to its
    inner edge, as far from it as the numbers' precision resolves.

    Args:
        activation: an ``invertible`` one.
        outputs: of any shape.

    Raises:
        TypeError: the activation is of a type that has no inverse here.
    """
    eps = torch.finfo(outputs.dtype).eps
    match activation:
        case nn.LeakyReLU():
            return torch.where(outputs >= 0, outputs, outputs / activation.negative_slope)
        case nn.Sigmoid():
            return torch.logit(outputs, eps=eps)
        case nn.Tanh():
            return torch.atanh(outputs.clamp(-1 + eps, 1 - eps))
        case nn.ELU():
            below = (outputs / activation.alpha).clamp_min(-1 + eps)
            return torch.where(outputs >= 0, outputs, torch.log1p(below))
        case nn.Softplus():
            # y = log(1 + e^(beta x)) / beta, so x = y + log(1 - e^(-beta y)) / beta, which does not overflow.
            scaled = (outputs * activation.beta).clamp_min(eps)
            curved = (scaled + torch.log(-torch.expm1(-scaled))) / activation.beta
            return torch.where(scaled > activation.threshold, outputs, curved)
    raise TypeError(f"{type(activation).__name__} has no inverse here")

"""What a convolution was fed, read in closed form from the gradient of its weights.

The gradient of a convolution's weights is ``sum_p delta(p) patch(p)^T``, a sum over positions. Where there are as many
output channels as positions, its rows span the same space as the patches do. Patches overlap, so that hardly any map
of features has all of its own in a given space: to have them there is a linear condition, and one null vector is left,
the features up to a factor. The gradient of the bias, ``sum_p delta(p)``, gives the factor.

The idea is that of recursive attacks (R-GAP, arXiv:2010.07733), which need the gradient at the output of a layer to
get at its input; the span of the rows does without. Nothing of this is published for diffusion models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional

TRUSTED = 1e-2
"""Ratio of the two least eigenvalues above which the null vector is not told from its neighbours."""

DISTINCT = 1e-2
"""A singular value beyond the number of positions, to the one before it, from which it is no matter of rounding."""

LARGEST = 4_096
"""Features that are solved for at once; a dense eigenproblem of that size takes a minute."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a convolution was fed.

    Attributes:
        layer: name of the convolution.
        values: its input, [1, C, H, W], float64.
        doubt: the least eigenvalue over the next one; about 0 where the features are certain.
    """

    layer: str
    values: Tensor
    doubt: float


def readable(network: nn.Module, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The convolutions whose input one example's gradient gives away, in the order in which the network has them.

    Args:
        network: that was trained.
        inputs: shapes of what its convolutions are fed by one example, [1, C, H, W].
    """
    modules = dict(network.named_modules())
    return [name for name, shape in inputs.items() if _fits(modules[name], shape)]


def read_features(
    network: nn.Module, gradients: Mapping[str, Tensor], layer: str, shape: tuple[int, ...]
) -> Features | None:
    """The input of a convolution in one example's pass, or None where the gradient does not tell it.

    Args:
        network: that was trained.
        gradients: of one example's loss, by parameter name.
        layer: one of ``readable``.
        shape: of the input, [1, C, H, W].
    """
    convolution = dict(network.named_modules())[layer]
    assert isinstance(convolution, nn.Conv2d)
    weight = gradients[f"{layer}.weight"].double().cpu().flatten(1)
    bias = gradients[f"{layer}.bias"].double().cpu()
    positions = _patches(torch.zeros(shape, dtype=torch.float64), convolution).shape[2]
    _, sizes, rows = torch.linalg.svd(weight, full_matrices=False)
    if not sizes[positions - 1] > torch.finfo(torch.float32).eps * sizes[0]:
        return None
    if len(sizes) > positions and sizes[positions] > DISTINCT * sizes[positions - 1]:
        return None  # patches of several examples span more
    values, doubt = _null_vector(_outside(rows[:positions], convolution, shape))
    if not doubt < TRUSTED:
        return None
    features = values.reshape(shape)
    deltas = torch.linalg.lstsq(_patches(features, convolution)[0], weight.T).solution
    total = deltas.sum(0)
    return Features(layer, features * (total @ bias / (bias @ bias)), doubt)


def _fits(module: nn.Module, shape: tuple[int, ...]) -> bool:
    if not isinstance(module, nn.Conv2d) or module.bias is None or module.groups > 1 or len(shape) != 4:
        return False
    if max(module.kernel_size) < 2 or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return False  # patches of one pixel do not overlap
    if shape[1] * shape[2] * shape[3] > LARGEST:
        return False
    _, width, positions = _patches(torch.zeros(shape), module).shape
    return positions <= module.out_channels and positions < width


def _patches(features: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What the kernel sees at each position, [N, C k k, positions]."""
    k, dilation, padding, stride = (
        convolution.kernel_size,
        convolution.dilation,
        convolution.padding,
        convolution.stride,
    )
    assert not isinstance(padding, str)
    return functional.unfold(features, k, dilation, padding, stride)


def _outside(rows: Tensor, convolution: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """The matrix whose quadratic form is how much of all patches lies outside of the span of the rows."""
    count = shape[1] * shape[2] * shape[3]
    numbered = torch.arange(1, count + 1, dtype=torch.float64).reshape(shape)
    places = _patches(numbered, convolution)[0].long().T  # [positions, C k k], 0 where the kernel sees padding
    off = torch.eye(rows.shape[1], dtype=torch.float64) - rows.T @ rows
    form = torch.zeros(count, count, dtype=torch.float64)
    for place in places:
        inside = place > 0
        at = place[inside] - 1
        form[at[:, None], at[None]] += off[inside][:, inside]
    return form


def _null_vector(form: Tensor) -> tuple[Tensor, float]:
    """The eigenvector of the least eigenvalue, and that over the next one."""
    values, vectors = scipy.linalg.eigh(form.numpy(), subset_by_index=(0, 1))
    return torch.from_numpy(vectors[:, 0].copy()), float(abs(values[0]) / max(values[1], 1e-300))

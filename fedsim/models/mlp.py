"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
import math

from torch import nn

from fedsim.models import MODELS, InputShape


@MODELS.register("mlp")
def mlp(input_shape: InputShape, classes: int, hidden: list[int] | None = None) -> nn.Module:
    """Linear layers with ReLU between them.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        hidden: widths of the hidden layers, by default one of 200 (McMahan et al. 2017 use two).
    """
    widths = [math.prod(input_shape), *(hidden if hidden is not None else [200])]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))

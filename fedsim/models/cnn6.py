"""The networks of R-GAP: six convolutions, of which rank analysis says that one leaks and the other does not."""

from __future__ import annotations

from torch import nn

from fedsim.models import MODELS, InputShape

_SLOPE = 0.2


@MODELS.register("cnn6")
def cnn6(input_shape: InputShape, classes: int) -> nn.Module:
    """Six convolutions without bias, LeakyReLU 0.2, and a linear layer with bias: open to R-GAP.

    Zhu, Blaschko, ICLR 2021, arXiv:2010.07733, and the authors' code, whose last layer has one output and
    no bias.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
    """
    return _chain(input_shape, classes, narrow=36)


@MODELS.register("cnn6_d")
def cnn6_d(input_shape: InputShape, classes: int) -> nn.Module:
    """``cnn6`` with 20 channels in place of 36 after the second convolution, which then hides its input.

    Zhu, Blaschko, ICLR 2021, arXiv:2010.07733, and the authors' code, whose last layer has one output and
    no bias.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
    """
    return _chain(input_shape, classes, narrow=20)


def _chain(input_shape: InputShape, classes: int, narrow: int) -> nn.Module:
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for size, kernel, stride, padding in [
        (12, 4, 2, 2),
        (narrow, 3, 2, 1),
        (36, 3, 1, 1),
        (36, 3, 1, 1),
        (64, 3, 2, 1),
        (128, 3, 1, 1),
    ]:
        layers += [
            nn.Conv2d(channels, size, kernel, stride=stride, padding=padding, bias=False),
            nn.LeakyReLU(_SLOPE),
        ]
        channels = size
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))

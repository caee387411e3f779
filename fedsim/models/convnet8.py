"""The ConvNet of Inverting Gradients: eight convolutions with batch normalisation."""

from __future__ import annotations

from torch import nn

from fedsim.models import MODELS, InputShape


@MODELS.register("convnet8")
def convnet8(input_shape: InputShape, classes: int, width: int = 32) -> nn.Module:
    """Eight blocks of 3x3 convolution, batch normalisation and ReLU, with two 3x3 max-poolings.

    Geiping et al., NeurIPS 2020, arXiv:2003.14053, and the authors' code, in which a name used twice
    leaves eight blocks of the nine announced.

    Args:
        input_shape: channels, height, width; 9 pixels or more a side.
        classes: outputs.
        width: channels of the first block; the authors' 64 is four times slower on a CPU.

    Raises:
        ValueError: the images are too small.
    """
    channels, height, side = input_shape
    if min(height, side) < 9:
        raise ValueError("two poolings by 3 need 9 pixels a side")
    sizes = [width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width, 4 * width, 4 * width]
    layers: list[nn.Module] = []
    for index, size in enumerate(sizes):
        layers += [nn.Conv2d(channels, size, 3, padding=1), nn.BatchNorm2d(size), nn.ReLU()]
        if index in (5, 7):
            layers.append(nn.MaxPool2d(3))
        channels = size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * (height // 9) * (side // 9), classes))

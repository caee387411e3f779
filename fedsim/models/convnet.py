"""A small convolutional network with batch normalisation."""

from __future__ import annotations

from torch import nn

from fedsim.models import MODELS, InputShape


@MODELS.register("convnet")
def convnet(input_shape: InputShape, classes: int, width: int = 64) -> nn.Module:
    """``cnn`` with batch normalisation after each convolution: strided 3x3 convolutions and a linear layer.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        width: channels of the first convolution; the other two have twice as many.
    """
    channels, height, side = input_shape
    layers: list[nn.Module] = []
    for size in (width, 2 * width, 2 * width):
        layers += [nn.Conv2d(channels, size, 3, stride=2, padding=1), nn.BatchNorm2d(size), nn.ReLU()]
        channels, height, side = size, -(-height // 2), -(-side // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * side, classes))

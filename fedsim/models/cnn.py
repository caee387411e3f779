"""A small convolutional network without batch normalisation."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.models import MODELS, InputShape

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


@MODELS.register("cnn")
def cnn(
    input_shape: InputShape,
    classes: int,
    width: int = 32,
    activation: Literal["relu", "sigmoid", "leaky_relu", "tanh", "gelu"] = "relu",
) -> nn.Module:
    """Three strided 3x3 convolutions (width, 2 width, 2 width) and a linear layer.

    No batch normalisation, so that a client's update depends on nothing but its own examples, and
    strides in place of pooling, so that every pixel has a gradient.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        width: channels of the first convolution.
        activation: after each convolution.
    """
    channels, height, side = input_shape
    act = ACTIVATIONS[activation]
    for _ in range(3):
        height, side = -(-height // 2), -(-side // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        act(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        act(),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        act(),
        nn.Flatten(),
        nn.Linear(2 * width * height * side, classes),
    )

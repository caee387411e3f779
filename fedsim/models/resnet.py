"""Residual networks: ResNet-20 for small images, and torchvision's ResNet-18 fitted to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.models import MODELS, InputShape


class _Block(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.skip(x))


@MODELS.register("resnet20")
def resnet20(input_shape: InputShape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-20 for images of 32 pixels a side (He et al. 2016, section 4.2), with 1x1 projections.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        width: channels of the first stage; 16 in the paper.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage, outputs in enumerate((width, 2 * width, 4 * width)):
        for block in range(3):
            layers.append(_Block(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@MODELS.register("resnet18")
def resnet18(input_shape: InputShape, classes: int) -> nn.Module:
    """Torchvision's ResNet-18 with a 3x3 first convolution and no first pooling, for small images.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
    """
    from torchvision.models import resnet18 as torchvision_resnet18  # late: it takes seconds to load

    network: nn.Module = torchvision_resnet18(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    # fc draws last in torchvision; the replaced convolution draws after it, so it is set like the others.
    torch.nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network

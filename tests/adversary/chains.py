"""Chains of layers that R-GAP can and cannot invert, and what a server would overhear of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from overheard import gradient_of, state
from torch import Tensor, nn
from torch.nn import functional

from fedsim.protocol import Knowledge, Observation, TrainingPlan

SHAPE = (3, 9, 10)
"""Sides that differ, so that no two can be mistaken for each other."""


def drawn(network: nn.Module) -> nn.Module:
    """The network in float64, with weights and biases drawn from normal distributions."""
    draws = torch.Generator().manual_seed(0)
    for parameter in network.double().parameters():
        size = 1 / math.sqrt(max(3, parameter[0].numel()))
        parameter.data = size * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    return network


def chain(*body: nn.Module) -> nn.Module:
    """Layers on ``SHAPE`` and a linear layer with bias after them."""
    width = nn.Sequential(*body, nn.Flatten())(torch.zeros(1, *SHAPE)).shape[1]
    return drawn(nn.Sequential(*body, nn.Flatten(), nn.Linear(width, 7)))


class Functional(nn.Module):
    """Activations and reshapes as calls, a shape read from the input, and blocks within blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.Dropout(), nn.Sequential(nn.Tanh()))
        self.second = nn.Conv2d(20, 24, 3, stride=2, padding=1)
        self.fc = nn.Linear(24 * 5 * 5, 11, bias=False)
        self.last = nn.Linear(11, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.second(self.block(x)), 0.3)
        x = torch.sigmoid(self.fc(x.view(x.size(0), -1)))
        logits: Tensor = self.last(x)
        return logits


def wide(**options: int) -> nn.Conv2d:
    return nn.Conv2d(3, 24, 3, **options)


EXACT: dict[str, Callable[[], nn.Module]] = {
    "linear layers alone": lambda: drawn(
        nn.Sequential(
            nn.Flatten(), nn.Linear(270, 40, bias=False), nn.Tanh(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 7)
        )
    ),
    "leaky relu": lambda: chain(
        wide(padding=1), nn.LeakyReLU(0.2), nn.Conv2d(24, 30, 3, stride=2, padding=1), nn.LeakyReLU(0.2)
    ),
    "sigmoid, stride and padding": lambda: chain(
        nn.Conv2d(3, 14, 5, stride=2, padding=3), nn.Sigmoid(), nn.Conv2d(14, 16, 3), nn.Sigmoid()
    ),
    "tanh without bias": lambda: chain(nn.Conv2d(3, 24, (3, 2), bias=False), nn.Tanh()),
    "elu in place": lambda: chain(
        wide(padding=1), nn.ELU(0.7, inplace=True), nn.Conv2d(24, 24, 3, stride=2, padding=1), nn.ELU(inplace=True)
    ),
    "softplus": lambda: chain(wide(), nn.Softplus(), nn.Conv2d(24, 12, 2), nn.Softplus(beta=2)),
    "groups": lambda: chain(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(12, 36, 3, stride=2, padding=1, groups=3),
        nn.Tanh(),
    ),
    "dilation": lambda: chain(wide(padding=2, dilation=2), nn.LeakyReLU(0.2)),
    "calls of functions": lambda: drawn(Functional().eval()),
}
DEFICIENT: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "few filters, long strides": (lambda: chain(nn.Conv2d(3, 2, 3, stride=3), nn.Tanh()), ["0"]),
    "in the middle": (
        lambda: chain(wide(padding=1), nn.Tanh(), nn.Conv2d(24, 5, 3, stride=2, padding=1), nn.Tanh()),
        ["2"],
    ),
    "pixels that no filter sees": (lambda: chain(nn.Conv2d(3, 40, 1, stride=2), nn.Sigmoid()), ["0"]),
}
"""Networks, and the layers that hide their input."""


def image() -> Tensor:
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def overhear(network: nn.Module, inputs: Tensor, label: int = 2) -> tuple[Observation, Knowledge]:
    """One gradient in the precision of the network; the server knows the architecture, its weights are observed."""
    gradient = gradient_of(network, inputs, torch.tensor([label]))
    plan = TrainingPlan(algorithm="fedsgd", batch_size=None, mode="eval")
    shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])
    return Observation(1, 0, state(network), gradient, "gradient", 1, plan), Knowledge(
        lambda: drawn(copy.deepcopy(network)).float(), shape, 7
    )

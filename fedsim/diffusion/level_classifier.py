"""The network that sees how noisy an image is, and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim import seeding
from fedsim.diffusion.denoising import spread
from fedsim.errors import invalid
from fedsim.models import InputShape

WIDTHS = (32, 64, 128, 256)


class LevelClassifier(nn.Module):
    """Four blocks of a 3x3 convolution, ReLU and an average over 2x2, then one linear layer.

    Kim and Ye 2023, arXiv:2209.14593, the authors' code; the input is not scaled, since its size tells the level.

    Args:
        input_shape: channels, height, width; 16 pixels or more on a side.
        levels: K.

    Raises:
        FedsimError: the images are too small.
    """

    def __init__(self, input_shape: InputShape, levels: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 2 ** len(WIDTHS):
            raise invalid("input_shape", input_shape, "four halvings leave nothing", "Take 16 pixels a side or more")
        layers: list[nn.Module] = []
        for size in WIDTHS:
            layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
            channels, height, width = size, height // 2, width // 2
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Linear(channels * height * width, levels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of noisy images [N, C, H, W]."""
        logits: Tensor = self.fc(self.body(x))
        return logits


def build_classifier(input_shape: InputShape, levels: int, *, seed: int = 0) -> LevelClassifier:
    """A classifier in evaluation mode whose weights depend on the seed alone.

    Raises:
        FedsimError: the images are too small.
    """
    with seeding.borrowed_global_state(seed, "diffusion", "level classifier"):
        return LevelClassifier(input_shape, levels).eval()


def classification_loss(
    classify: Callable[[Tensor], Tensor], x_0: Tensor, noise: Tensor, k: Tensor, levels: Tensor
) -> Tensor:
    """Cross-entropy in nats of the level of ``x_0 + sigma_k noise``, the mean over a batch.

    Args:
        classify: logits [N, K] of noisy images.
        x_0: images, [N, ...].
        noise: standard normal, of the images' shape.
        k: the level's index, int64 [N]; drawn evenly, the chain's density of levels is even.
        levels: sigma, [K].
    """
    return cross_entropy(classify(x_0 + spread(levels[k.to(levels.device)], x_0) * noise), k)


def level_indices(count: int, levels: int, generator: torch.Generator) -> Tensor:
    """Indices drawn evenly, int64 [count]."""
    return torch.randint(levels, (count,), generator=generator)

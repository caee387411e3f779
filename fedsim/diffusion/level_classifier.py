"""The network that sees how noisy an image is, and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim import seeding
from fedsim.diffusion.denoising import seeded_noise, spread
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


def learned_classifier(
    images: Tensor,
    levels: Tensor,
    *,
    steps: int,
    seed: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    told: Callable[[int, float], None] | None = None,
) -> LevelClassifier:
    """A classifier that has learned to see the noise in images; the same arguments give the same weights.

    By Adam, as the authors', on batches drawn with replacement, each with fresh noise at levels drawn evenly; the step
    size falls as a cosine.

    Args:
        images: without noise, scaled as those that it will see are, [N, C, H, W].
        levels: sigma, falling, [K].
        steps: of Adam.
        seed: of weights, batches, levels and noise.
        batch_size: of each step.
        learning_rate: at the first step; the authors' 1e-3.
        told: is told each step and its loss in nats.

    Raises:
        FedsimError: the images are too small.
    """
    channels, height, width = images.shape[1:]
    network = build_classifier((channels, height, width), len(levels), seed=seed).train()
    optimiser = torch.optim.Adam(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    draws = seeding.generator(seed, "diffusion", "level classifier", "batches")
    noise = seeded_noise(draws)
    for step in range(steps):
        x_0 = images[torch.randint(len(images), (batch_size,), generator=draws)]
        k = level_indices(batch_size, len(levels), draws)
        optimiser.zero_grad()
        loss = classification_loss(network, x_0, noise(x_0), k, levels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if told is not None:
            told(step + 1, float(loss.detach()))
    return network.eval()

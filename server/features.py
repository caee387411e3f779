"""Features of images from a classifier of the same data, which need no download."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim import models, seeding
from fedsim.data import Images

WIDTH, EPOCHS, BATCH, EXAMPLES = 16, 2, 64, 10_000


def classifier_features(data: Images, seed: int) -> nn.Module:
    """What the last layer of a small classifier of ``data`` goes by.

    A ``cnn`` of width 16 with GELU, trained for two epochs by Adam at 1e-3 on the first 10,000 images in a shuffled
    order, in batches of 64: seconds. The same data and seed give the same features, bit for bit.

    Args:
        data: images of training.
        seed: of weights and order.

    Returns:
        A network in evaluation mode: images in [0, 1], float32 [N, C, H, W], to features, [N, D].
    """
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    network = models.builder("cnn", shape, len(data.classes), seed=seed, width=WIDTH, activation="gelu")()
    if not isinstance(network, nn.Sequential):
        raise TypeError("features are those of a network whose layers follow each other")
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = seeding.generator(seed, "features", "order")
    chosen = torch.randperm(len(data), generator=generator)[:EXAMPLES]
    with torch.enable_grad():
        for _ in range(EPOCHS):
            order = torch.randperm(len(chosen), generator=generator)
            for batch in torch.split(chosen[order], BATCH):
                optimiser.zero_grad()
                cross_entropy(network(scaled(data.images[batch])), data.labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return network[:-1].eval().requires_grad_(False)


def scaled(images: Tensor) -> Tensor:
    """From uint8 to [0, 1]."""
    return images.float() / 255

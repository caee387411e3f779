"""The classifier of noise levels: its shape, its loss, and that it learns."""

import math

import pytest
import torch
from torch import nn

from fedsim import seeding
from fedsim.data import load
from fedsim.diffusion import seeded_noise
from fedsim.diffusion.level_classifier import build_classifier, classification_loss, level_indices
from fedsim.diffusion.levels import geometric
from fedsim.errors import FedsimError


@pytest.mark.parametrize(("shape", "inputs"), [((3, 32, 32), 1024), ((1, 28, 28), 256), ((1, 16, 16), 256)])
def test_it_is_that_of_the_authors(shape: tuple[int, int, int], inputs: int) -> None:
    network = build_classifier(shape, 1000)
    assert network.fc.in_features == inputs
    assert network(torch.rand(2, *shape)).shape == (2, 1000)
    assert [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)] == [32, 64, 128, 256]


def test_weights_depend_on_the_seed_alone() -> None:
    def flat(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        return nn.utils.parameters_to_vector(build_classifier((1, 16, 16), 10, seed=seed).parameters())

    assert torch.equal(flat(0), flat(0))
    assert not torch.equal(flat(0), flat(1))


def test_the_loss_is_the_cross_entropy_of_the_level() -> None:
    """Classifiers that know the level by the image's size, and one that knows nothing."""
    levels = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    x_0, noise = torch.zeros(6, 1, 4, 4), torch.ones(6, 1, 4, 4)
    k = torch.tensor([0, 1, 2, 2, 1, 0])

    def sure(x: torch.Tensor) -> torch.Tensor:
        return 100.0 * (x.flatten(1).mean(1, keepdim=True).double() == levels)

    assert float(classification_loss(sure, x_0, noise, k, levels)) == pytest.approx(0, abs=1e-9)
    assert float(classification_loss(lambda x: torch.zeros(6, 3), x_0, noise, k, levels)) == pytest.approx(math.log(3))
    assert float(classification_loss(lambda x: sure(x).flip(1), x_0, noise, k, levels)) > 60


def test_indices_are_even() -> None:
    counts = level_indices(30_000, 10, seeding.generator(0, "test", "k")).bincount(minlength=10)
    assert float((counts / 3000 - 1).abs().max()) < 0.1


def test_it_learns_levels_of_pictures() -> None:
    """From a guess, ``ln K``, to less than ``ln K - 1``, on the middle of small pictures."""
    levels = geometric(100, 0.01, 50.0)
    images = load("fashion_mnist_small").train.images[:2000, :, 6:22, 6:22].float() / 255
    network, draws = build_classifier((1, 16, 16), len(levels)).train(), seeding.generator(0, "test", "batches")
    noise, optimiser = seeded_noise(draws), torch.optim.Adam(network.parameters(), 3e-3)

    def loss() -> torch.Tensor:
        x_0 = images[torch.randint(len(images), (64,), generator=draws)]
        return classification_loss(network, x_0, noise(x_0), level_indices(64, len(levels), draws), levels)

    assert float(loss().detach()) > math.log(100) - 0.2
    for _ in range(150):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    with torch.no_grad():
        assert sum(float(loss()) for _ in range(10)) / 10 < math.log(100) - 1


def test_small_images_are_refused() -> None:
    with pytest.raises(FedsimError, match="16 pixels"):
        build_classifier((1, 8, 8), 10)

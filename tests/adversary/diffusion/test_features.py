"""Features read from the span of a convolution's gradient, and the noisy image that has them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from adversary.diffusion.features import fed, noisy_image
from adversary.diffusion.residual import fit, rotate_back
from adversary.diffusion.span import read_features, readable
from fedsim.data import load
from fedsim.diffusion import unets
from fedsim.diffusion.objective import Objective
from fedsim.diffusion.schedules import sigmoid

GOAL = Objective(sigmoid(16), "v")
LAYER = "unet.down_blocks.1.resnets.0.conv1"


def victim(
    t: int, *, widths: tuple[int, ...] = (8, 56), dtype: torch.dtype = torch.float32, images: int = 1
) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """Network, images, noisy images and gradient; the gradient is of this precision, all else is in float64."""
    network = unets.build("unet", (1, 14, 14), widths=widths, seed=3).to(dtype)
    image = avg_pool2d(load("fashion_mnist_small").test.images[:images].to(dtype), 2) / 127.5 - 1
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(t)).to(dtype)
    steps = torch.full((images,), t)
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(GOAL(network, image, noise, steps), parameters)
    gradients = {name: gradient.double() for name, gradient in zip(names, found, strict=True)}
    return network.double(), image.double(), GOAL.posed(image, noise, steps)[0].double(), gradients


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_features_of_a_layer_with_more_channels_than_positions_are_read_exactly(
    dtype: torch.dtype, exact: float
) -> None:
    network, _, noisy, gradients = victim(7, dtype=dtype)
    with torch.no_grad():
        true = fed(network, lambda x: network(x, torch.tensor([7])), LAYER, noisy)
    found = read_features(network, gradients, LAYER, tuple(true.shape))
    assert found is not None
    assert float((found.values - true).norm() / true.norm()) < exact


@pytest.mark.parametrize("t", [0, 7, 15])
def test_a_gradient_in_single_precision_gives_away_image_and_noise(t: int) -> None:
    network, image, noisy, gradients = victim(t)
    ask = functools.partial(_asked, network, t)
    found = noisy_image(network, ask, gradients, tuple(noisy.shape), seed=0)
    assert found is not None
    assert _psnr(found.noisy, noisy) > 50
    solved = fit(network, gradients, GOAL, found.noisy, torch.tensor([t]))
    recovered, _ = rotate_back(GOAL, found.noisy, solved.target, torch.tensor([t]))
    assert _psnr(recovered, image) > 50


def test_with_fewer_channels_than_positions_no_layer_is_readable() -> None:
    network, _, noisy, gradients = victim(7, widths=(8, 16))
    assert not readable(network, {LAYER: (1, 8, 7, 7)})
    assert noisy_image(network, functools.partial(_asked, network, 7), gradients, tuple(noisy.shape), seed=0) is None


def test_with_fewer_features_than_pixels_no_image_is_made_up() -> None:
    network = unets.build("unet", (1, 14, 14), widths=(4, 56), groups=4, seed=3).double()
    shape = (1, 1, 14, 14)
    image = torch.zeros(shape, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.autograd.grad(GOAL(network, image, noise, torch.tensor([7])), parameters)
    gradients = dict(zip(names, found, strict=True))
    assert noisy_image(network, functools.partial(_asked, network, 7), gradients, shape, seed=0) is None


def test_a_batch_leaves_no_single_map_of_features() -> None:
    """Patches of two examples span more than the rows of the gradient do, and nothing is made up for them."""
    network, _, noisy, gradients = victim(7, images=2)
    assert read_features(network, gradients, LAYER, (1, 8, 7, 7)) is None
    assert noisy_image(network, functools.partial(_asked, network, 7), gradients, (1, *noisy.shape[1:]), seed=0) is None


def _asked(network: nn.Module, t: int, noisy: Tensor) -> Tensor:
    answer: Tensor = network(noisy, torch.tensor([t]))
    return answer


def _psnr(found: Tensor, true: Tensor) -> float:
    return float(10 * torch.log10(4 / (found - true).square().mean()))

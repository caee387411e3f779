"""The residual of a diffusion loss, solved from its gradient."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from adversary.diffusion.residual import Fit, fit, rotate_back
from fedsim.diffusion import unets
from fedsim.diffusion.objective import Objective
from fedsim.diffusion.parametrisation import Prediction
from fedsim.diffusion.schedules import sigmoid

STEP = torch.tensor([7])


def victim(prediction: str) -> tuple[nn.Module, Objective, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    net = unets.build("unet", (1, 8, 8), widths=(16, 16), attention=False, seed=3).double()
    objective = Objective(sigmoid(16), cast(Prediction, prediction))
    source = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 8, 8, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(1, 1, 8, 8, generator=source, dtype=torch.float64)
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(objective(net, image, noise, STEP), parameters)
    noisy = objective.posed(image, noise, STEP)[0]
    return net, objective, image, noise, noisy, dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_image_and_noise_follow_from_the_true_noisy_image(prediction: str) -> None:
    net, objective, image, noise, noisy, grads = victim(prediction)
    found: Fit = fit(net, grads, objective, noisy, STEP)
    got_image, got_noise = rotate_back(objective, noisy, found.target, STEP)
    torch.testing.assert_close(got_image, image, atol=1e-9, rtol=0)
    torch.testing.assert_close(got_noise, noise, atol=1e-9, rtol=0)
    assert found.unexplained < 1e-9
    assert 3 < found.condition < 27  # 9 in the reference runs


def test_what_is_left_unexplained_grows_with_the_distance_from_the_true_noisy_image() -> None:
    """About 1.4 times the size of the perturbation, as in the derivation's reference runs, within a factor of 3."""
    net, objective, _, _, noisy, grads = victim("v")
    away = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for size in (1e-3, 1e-2, 1e-1):
        left = fit(net, grads, objective, noisy + size * away, STEP).unexplained
        assert 1.4 * size / 3 < left < 1.4 * size * 3


def test_a_wrong_step_leaves_more_than_the_right_one() -> None:
    net, objective, _, _, noisy, grads = victim("v")
    left = [fit(net, grads, objective, noisy, torch.tensor([t])).unexplained for t in (5, 6, 7, 8, 9)]
    assert min(range(5), key=left.__getitem__) == 2
    assert min(left[:2] + left[3:]) > 1e-3

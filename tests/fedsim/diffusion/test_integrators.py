"""DDPM and DDIM along levels of each image's own, against the same samplers over the steps of a schedule."""

import pytest
import torch
from gaussians import Gaussian, Mixture
from scipy.stats import kstest
from torch import Tensor

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Counted, at_levels, ddim, ddpm, denoiser, heun, seeded_noise
from fedsim.diffusion.integrators import Integrator, ancestral, calls, euler, integrate
from fedsim.diffusion.levels import karras
from fedsim.errors import FedsimError

LINEAR = SCHEDULES.create("linear", 1000)
STEPS = LINEAR.spaced(7).flip(0)
MIXTURE = Mixture(torch.tensor([[-1.5, 0.5], [1.5, 0.0], [0.0, -1.0]], dtype=torch.float64), 0.3)


def noise(name: str) -> object:
    return seeded_noise(seeding.generator(0, "test", "integrators", name))


def numbers(*shape: int) -> Tensor:
    return noise("y")(torch.zeros(*shape, dtype=torch.float64))


def both(network: object) -> tuple[object, object, Tensor, Tensor, Tensor]:
    """A denoiser at steps and at levels, noisy images in both coordinates, and the levels of ``STEPS`` with 0."""
    known = denoiser(network, LINEAR, "v")
    x = numbers(3, 4)
    levels = torch.cat([LINEAR.levels[STEPS], torch.zeros(1, dtype=torch.float64)])
    return known, at_levels(known, LINEAR), x, x / LINEAR.alpha_bar[STEPS[0]].sqrt(), levels


def test_euler_is_ddim_over_steps() -> None:
    known, at_level, x, y, levels = both(lambda x, t: torch.tanh(x) * (1 + t[:, None] / 1000))
    assert torch.allclose(euler(at_level, y, levels), ddim(known, LINEAR, x, STEPS), atol=1e-8)


def test_ancestral_is_ddpm_over_steps() -> None:
    known, at_level, x, y, levels = both(lambda x, t: torch.tanh(x) * (1 + t[:, None] / 1000))
    found = ancestral(at_level, y, levels, noise("z"))
    assert torch.allclose(found, ddpm(known, LINEAR, x, STEPS, noise("z")), atol=1e-8)
    assert not torch.allclose(found, euler(at_level, y, levels), atol=0.1)


def test_euler_is_of_first_order() -> None:
    known, errors = Gaussian(0.5), []
    for steps in (40, 80):
        levels = karras(steps + 2, torch.tensor([10.0]), 0.1)[:-1]
        found = euler(known.denoise_levels, torch.ones(1, 1, dtype=torch.float64), levels)
        errors.append(abs(float(found) - known.flow(10.0, 0.1)))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("by", ["ddim", "ddpm", "heun"])
def test_each_takes_a_mixture_from_levels_of_each_image_to_the_data(by: Integrator) -> None:
    starts = torch.linspace(0.5, 20, 3000, dtype=torch.float64)
    y = MIXTURE.draw(starts, seeding.generator(0, "test", "integrators"))
    found = integrate(by, MIXTURE.denoise, y, karras(60, starts, 0.01), noise("walk"))
    exact = MIXTURE.marginal(torch.zeros(1, dtype=torch.float64))
    assert kstest(found[:, 0].numpy(), exact).pvalue > 0.01
    off = 10 if by == "ddpm" else 2  # a walk that draws noise forgets where it began
    wrong = integrate(by, MIXTURE.denoise, y, karras(60, starts / off, 0.01), noise("walk"))
    assert kstest(wrong[:, 0].numpy(), exact).pvalue < 1e-4


@pytest.mark.parametrize("by", ["ddim", "ddpm", "heun"])
def test_calls_are_those_that_are_made(by: Integrator) -> None:
    counted = Counted(MIXTURE.denoise)
    integrate(by, counted, numbers(2, 2), karras(6, torch.tensor([2.0, 1.0]), 0.1), noise("calls"))
    assert counted.calls == calls(by, 6)


def test_heun_by_name_is_heun() -> None:
    levels = karras(5, torch.tensor([2.0, 1.0]), 0.1)
    found = integrate("heun", MIXTURE.denoise, numbers(2, 2), levels, noise("none"))
    assert torch.equal(found, heun(MIXTURE.denoise, numbers(2, 2), levels))


def test_mistakes_are_explained() -> None:
    y, rising = numbers(2, 2), torch.tensor([0.5, 1.0])
    for by in ("ddim", "ddpm", "heun"):
        with pytest.raises(FedsimError, match="noise levels"):
            integrate(by, MIXTURE.denoise, y, rising, noise("none"))
    with pytest.raises(FedsimError, match=r"'huen'.*'heun'"):
        integrate("huen", MIXTURE.denoise, y, rising.flip(0), noise("none"))  # type: ignore[arg-type]

"""Heun's method on the probability flow, and the denoisers over noise levels that it walks on."""

import math

import pytest
import torch
from gaussians import Gaussian, Mixture
from scipy.stats import kstest
from torch import Tensor

from fedsim import seeding
from fedsim.diffusion import (
    SCHEDULES,
    Churn,
    Counted,
    at_levels,
    ddim,
    denoiser,
    heun,
    score,
    seeded_noise,
    zero_terminal,
)
from fedsim.diffusion.levels import geometric, karras
from fedsim.errors import FedsimError

LINEAR = SCHEDULES.create("linear", 1000)
MIXTURE = Mixture(torch.tensor([[-1.5, 0.5], [1.5, 0.0], [0.0, -1.0]], dtype=torch.float64), 0.3)


def numbers(*shape: int, name: str = "y") -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, "test", "flow", name), dtype=torch.float64)


def test_heun_is_of_second_order() -> None:
    """Against the exact flow of Gaussian data, on levels that halve in width."""
    known, y = Gaussian(0.5), torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for steps in (40, 80, 160):
        levels = karras(steps + 2, torch.tensor([10.0]), 0.1)[:-1]
        errors.append(abs(float(heun(known.denoise_levels, y, levels)) - known.flow(10.0, 0.1)))
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.4)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.2)


def test_heun_over_the_steps_of_a_schedule() -> None:
    """With as many calls of the network it is nearer to the exact flow than DDIM."""
    known = Gaussian(0.5)
    x = torch.ones(1, 1, dtype=torch.float64)
    network = denoiser(known.noise_network(LINEAR), LINEAR, "epsilon")
    top = float(LINEAR.levels[-1])
    exact = float(LINEAR.alpha_bar[-1]) ** -0.5 * known.flow(top, 0.0)
    steps = LINEAR.spaced(50).flip(0)
    counted = Counted(at_levels(network, LINEAR))
    levels = torch.cat([LINEAR.levels[steps], torch.zeros(1, dtype=torch.float64)])
    found = heun(counted, x / LINEAR.alpha_bar[-1].sqrt(), levels)
    implicit = ddim(network, LINEAR, x, LINEAR.spaced(99).flip(0))
    assert counted.calls == 99
    assert abs(float(found) - exact) < abs(float(implicit) - exact) / 5


def test_one_euler_step_is_one_ddim_step() -> None:
    """The same equation in two coordinates: a step to level 0 is the denoised image."""
    network = denoiser(lambda x, t: torch.tanh(x), LINEAR, "v")
    x, a = numbers(3, 4), LINEAR.alpha_bar[700].sqrt()
    levels = torch.stack([LINEAR.levels[700], torch.zeros((), dtype=torch.float64)])
    found = heun(at_levels(network, LINEAR), x / a, levels)
    assert torch.allclose(found, ddim(network, LINEAR, x, torch.tensor([700])), atol=1e-9)


def test_samples_of_a_mixture() -> None:
    level = torch.tensor([20.0], dtype=torch.float64)
    levels = karras(40, level, 0.01)
    found = heun(MIXTURE.denoise, MIXTURE.draw(level.expand(3000), seeding.generator(0, "test", "mixture")), levels)
    exact = MIXTURE.marginal(torch.zeros(1, dtype=torch.float64))
    assert kstest(found[:, 0].numpy(), exact).pvalue > 0.01
    assert kstest(found[:, 0].numpy() + 0.1, exact).pvalue < 1e-4


def test_churn_keeps_the_distribution() -> None:
    """What is put back is taken away again, as long as the noise is not inflated."""
    level = torch.tensor([3.0], dtype=torch.float64).expand(3000)
    start = MIXTURE.draw(level, seeding.generator(0, "test", "churn"))
    exact = MIXTURE.marginal(torch.zeros(1, dtype=torch.float64))

    def end(churn: Churn | None) -> Tensor:
        noise = seeded_noise(seeding.generator(1, "test", "churn"))
        return heun(MIXTURE.denoise, start, karras(30, level, 0.01), churn=churn, noise=noise)

    plain, churned = end(None), end(Churn(inflation=1.0))
    assert float((plain - churned).abs().mean()) > 0.1
    assert kstest(churned[:, 0].numpy(), exact).pvalue > 0.01
    assert kstest(end(Churn(inflation=1.5))[:, 0].numpy(), exact).pvalue < 1e-4


def test_each_image_has_levels_of_its_own() -> None:
    starts = torch.tensor([0.3, 2.0, 9.0], dtype=torch.float64)
    y = numbers(3, 2)
    together = heun(MIXTURE.denoise, y, karras(6, starts, 0.01))
    for i, start in enumerate(starts):
        alone = heun(MIXTURE.denoise, y[i : i + 1], karras(6, start[None], 0.01)[:, 0])
        assert torch.allclose(alone[0], together[i], atol=1e-12)


@pytest.mark.parametrize("s", [0.25, 1.0])
def test_the_score_of_gaussian_data_through_a_network_of_noise(s: float) -> None:
    levels = LINEAR.levels[::50]
    y = numbers(len(levels), 3)
    network = at_levels(denoiser(Gaussian(s).noise_network(LINEAR), LINEAR, "epsilon"), LINEAR)
    assert torch.allclose(score(network, y, levels), -y / (s**2 + levels[:, None] ** 2), rtol=1e-6)


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    for level in (0.1, 1.0, 5.0):
        y = numbers(20, 2).requires_grad_()
        (expected,) = torch.autograd.grad(MIXTURE.density_by_sum(y, level).sum(), y)
        assert torch.allclose(score(MIXTURE.denoise, y, torch.full((20,), level).double()), expected, rtol=1e-8)


def test_levels_between_steps_take_the_nearest() -> None:
    asked = []

    def answer(x: Tensor, t: Tensor) -> Tensor:
        asked.extend(t.tolist())
        return x

    schedule = zero_terminal(LINEAR)
    between = schedule.levels[[3, 500]] * 0.6 + schedule.levels[[4, 501]] * 0.4
    at_levels(answer, schedule)(numbers(3, 2), torch.cat([between, torch.tensor([0.0])]))
    assert asked == [3, 500, 0]


def test_heun_is_differentiable_end_to_end() -> None:
    y = numbers(2, 2).requires_grad_()
    levels = karras(5, torch.tensor([2.0, 1.0]), 0.1)
    assert torch.autograd.gradcheck(lambda y: heun(MIXTURE.denoise, y, levels), (y,))


def test_geometric_levels() -> None:
    levels = geometric(1000, 0.01, 50.0)
    assert float(levels[0]) == pytest.approx(50)
    assert 0.01 < float(levels[-1]) == pytest.approx(0.01 * 5000**1e-3)
    ratios = levels[1:] / levels[:-1]
    assert torch.allclose(ratios, ratios[0].expand(999), rtol=1e-9)


def test_karras_levels() -> None:
    """Evenly spaced seventh roots; then 0."""
    levels = karras(9, torch.tensor([80.0, 1.0]), 0.002)
    assert levels.shape == (9, 2)
    assert levels[0].tolist() == pytest.approx([80, 1])
    assert levels[-2].tolist() == pytest.approx([0.002, 0.002])
    assert levels[-1].tolist() == [0, 0]
    roots = levels[:-1] ** (1 / 7)
    assert torch.allclose(roots.diff(dim=0), roots.diff(dim=0)[:1].expand(7, 2), rtol=1e-9)


def test_mistakes_are_explained() -> None:
    y = numbers(2, 2)
    for levels in ([1.0], [1.0, 1.0], [0.5, 1.0], [1.0, -0.1], [1.0, 0.0, 0.0], [math.nan, 0.0]):
        with pytest.raises(FedsimError, match="noise levels"):
            heun(MIXTURE.denoise, y, torch.tensor(levels))
    with pytest.raises(FedsimError, match="all at 0"):
        heun(MIXTURE.denoise, y, torch.tensor([[1.0, 1.0], [0.5, 0.0]]))
    with pytest.raises(FedsimError, match="churn"):
        heun(MIXTURE.denoise, y, torch.tensor([1.0, 0.0]), churn=Churn())
    with pytest.raises(FedsimError, match="lowest"):
        karras(5, torch.tensor([1.0, 0.01]), 0.01)
    with pytest.raises(FedsimError, match="three levels"):
        karras(2, torch.tensor([1.0]), 0.01)
    with pytest.raises(FedsimError, match="lowest"):
        geometric(10, 2.0, 1.0)
    with pytest.raises(FedsimError, match="count"):
        geometric(1, 0.1, 1.0)

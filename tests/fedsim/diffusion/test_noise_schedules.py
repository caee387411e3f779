"""Noise schedules: published figures, diffusers', and what must hold of any."""

import math

import pytest
import torch

from fedsim.diffusion import SCHEDULES, Schedule, zero_terminal
from fedsim.diffusion.schedules import from_betas
from fedsim.errors import FedsimError

NO_DIFFUSERS = "NOT TESTED: agreement with diffusers. Run: pip install fedsim[diffusion]"
NAMES = ["linear", "cosine", "sigmoid"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [50, 1000])
def test_signal_and_noise_share_the_power(name: str, steps: int) -> None:
    schedule = SCHEDULES.create(name, steps)
    a, b = schedule.scales(torch.arange(steps), torch.zeros(steps, 1, 1, 1, dtype=torch.float64))
    assert a.shape == (steps, 1, 1, 1)
    assert float((a**2 + b**2 - 1).abs().max()) < 1e-15
    assert torch.allclose(schedule.alpha.cumprod(0), schedule.alpha_bar, rtol=1e-12, atol=0)
    assert torch.allclose(schedule.levels, (b / a).flatten(), rtol=1e-9, atol=0)
    assert bool((schedule.levels.diff() > 0).all())
    assert bool((schedule.beta > 0).all())
    assert float(schedule.beta.max()) <= 0.999 + 1e-12


def test_the_linear_schedule_is_that_of_ddpm() -> None:
    schedule = SCHEDULES.create("linear", 1000)
    assert torch.allclose(schedule.beta[[0, 999]], torch.tensor([1e-4, 0.02], dtype=torch.float64), rtol=1e-9)
    exact = math.exp(math.fsum(math.log1p(-(1e-4 + 0.0199 * t / 999)) for t in range(1000)))
    assert float(schedule.alpha_bar[-1]) == pytest.approx(exact, rel=1e-10)
    assert exact == pytest.approx(4.04e-5, abs=5e-8)


def test_the_sigmoid_schedule_of_16_steps() -> None:
    """Between the ends, where no variance is capped, the product telescopes to the curve itself."""
    logistic = [1 / (1 + math.exp(-(6 * u / 16 - 3))) for u in range(17)]
    curve = [(logistic[16] - value) / (logistic[16] - logistic[0]) for value in logistic[1:]]
    bar = SCHEDULES.create("sigmoid", 16).alpha_bar
    assert bar[:15].tolist() == pytest.approx(curve[:15], rel=1e-12)
    assert float(bar[15] / bar[14]) == pytest.approx(0.001)
    assert bar[:8].tolist() == pytest.approx([0.978, 0.947, 0.906, 0.851, 0.782, 0.698, 0.602, 0.5], abs=1e-3)


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_schedules_are_those_of_diffusers(ours: str, theirs: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason=NO_DIFFUSERS)
    reference = diffusers.DDPMScheduler(1000, beta_schedule=theirs).alphas_cumprod.double()
    assert torch.allclose(SCHEDULES.create(ours, 1000).alpha_bar, reference, rtol=1e-4, atol=1e-7)
    rescaled = diffusers.DDPMScheduler(1000, beta_schedule=theirs, rescale_betas_zero_snr=True).alphas_cumprod.double()
    assert torch.allclose(zero_terminal(SCHEDULES.create(ours, 1000)).alpha_bar, rescaled, rtol=1e-3, atol=1e-6)


def test_a_stretched_schedule_ends_in_pure_noise_and_begins_as_it_did() -> None:
    before = SCHEDULES.create("linear", 100)
    after = zero_terminal(before)
    assert float(after.alpha_bar[-1]) == 0
    assert float(after.alpha_bar[0]) == pytest.approx(float(before.alpha_bar[0]), rel=1e-12)
    assert math.isinf(float(after.levels[-1]))


def test_spaced_steps() -> None:
    schedule = SCHEDULES.create("linear", 1000)
    assert schedule.spaced(3).tolist() == [0, 500, 999]
    assert schedule.spaced(1).tolist() == [999]
    assert schedule.spaced(1000).tolist() == list(range(1000))


@pytest.mark.parametrize("t", [-1, 16])
def test_steps_outside_are_refused(t: int) -> None:
    with pytest.raises(FedsimError, match="steps run from 0 to 15"):
        SCHEDULES.create("sigmoid", 16).scales(torch.tensor([3, t]), torch.zeros(2, 1))


@pytest.mark.parametrize("bar", [[], [0.5, 0.6], [0.5, 0.5], [1.0, 0.5], [0.5, -0.1], [0.5, 0.0, 0.0], [math.nan]])
def test_what_is_no_schedule_is_refused(bar: list[float]) -> None:
    with pytest.raises(FedsimError, match="alpha_bar"):
        Schedule(torch.tensor(bar, dtype=torch.float64))


def test_mistakes_are_explained() -> None:
    with pytest.raises(FedsimError, match="float64"):
        Schedule(torch.tensor([0.9, 0.5]))
    with pytest.raises(FedsimError, match="sigmoid"):
        SCHEDULES.create("linear", 16)
    with pytest.raises(FedsimError, match="at least one step"):
        SCHEDULES.create("cosine", 0)
    with pytest.raises(FedsimError, match="cosine"):
        SCHEDULES.create("cosin", 10)
    with pytest.raises(FedsimError, match="1000 steps"):
        SCHEDULES.create("linear", 1000).spaced(1001)
    with pytest.raises(FedsimError, match="stretched"):
        zero_terminal(from_betas(torch.tensor([0.1], dtype=torch.float64)))

"""DDPM and DDIM: closed forms, published figures, each other, and diffusers'."""

import pytest
import torch
from gaussians import Gaussian
from scipy.stats import kstest
from torch import Tensor

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Schedule, ddim, ddim_step, ddpm, denoiser, seeded_noise, zero_terminal
from fedsim.errors import FedsimError

LINEAR = SCHEDULES.create("linear", 1000)
NO_DIFFUSERS = "NOT TESTED: agreement with diffusers. Run: pip install fedsim[diffusion]"


def numbers(*shape: int, name: str = "x", dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, "test", "samplers", name), dtype=torch.float64).to(dtype)


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A network that is not linear, mixes pixels and knows the step."""
    phase = (t.to(x) / 100).reshape(-1, 1, 1, 1)
    return torch.tanh(x + 0.5 * x.roll(1, -1) - 0.3 * x.roll(1, -2) + torch.sin(phase))


@pytest.mark.parametrize(
    ("s", "shares"),
    [
        (0.25, {10: 0.551, 20: 0.760, 50: 0.901, 100: 0.949, 250: 0.979}),
        (0.5, {10: 0.723, 20: 0.861, 50: 0.944, 100: 0.972, 250: 0.989}),
        (1.0, {10: 0.815, 20: 0.908, 50: 0.963, 100: 0.982, 250: 0.993}),
    ],
)
def test_ddim_on_gaussian_data(s: float, shares: dict[int, float]) -> None:
    """By what share of the data's deviation DDIM multiplies its noise, for numbers of steps."""
    network = denoiser(Gaussian(s).noise_network(LINEAR), LINEAR, "epsilon")
    for steps, share in shares.items():
        found = ddim(network, LINEAR, torch.ones(1, 1, dtype=torch.float64), LINEAR.spaced(steps).flip(0))
        assert float(found) / s == pytest.approx(share, abs=1e-3)


def test_ddim_is_of_first_order() -> None:
    """The error against the exact flow halves with the steps' width; the last step, to x_0, is the same for all."""
    s, schedule = 0.5, SCHEDULES.create("linear", 1921)
    known = Gaussian(s)
    top, low = float(schedule.levels[-1]), float(schedule.levels[0])
    start = float(schedule.alpha_bar[-1]) ** -0.5
    exact = start * known.flow(top, low) * s**2 / (s**2 + low**2)
    errors = []
    for steps in (61, 121, 241):
        x = torch.ones(1, 1, dtype=torch.float64)
        found = ddim(known.denoise_steps(schedule), schedule, x, schedule.spaced(steps).flip(0))
        errors.append(abs(float(found) - exact))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("s", "share"), [(0.25, 0.985), (0.5, 0.992), (1.0, 0.996)])
def test_ddpm_on_gaussian_data(s: float, share: float) -> None:
    """Its variance exactly: the sampler is linear, so each unit of noise is followed on a coordinate of its own."""
    units = iter(torch.eye(1000, dtype=torch.float64)[1:, None])
    start = torch.eye(1000, dtype=torch.float64)[:1]
    found = ddpm(Gaussian(s).denoise_steps(LINEAR), LINEAR, start, torch.arange(999, -1, -1), lambda x: next(units))
    assert next(units, None) is None  # 999 draws: none at the last step
    assert float(found.norm()) / s == pytest.approx(share, abs=1e-3)


def test_samples_are_distributed_as_the_data() -> None:
    schedule, noise = SCHEDULES.create("cosine", 200), seeded_noise(seeding.generator(0, "test", "ddpm"))
    x, known, steps = numbers(4000, 1), Gaussian(0.5).denoise_steps(schedule), torch.arange(199, -1, -1)
    for found in (
        ddpm(known, schedule, x, steps, noise),
        ddim(known, schedule, x, steps),
        ddim(known, schedule, x, steps, eta=0.5, noise=noise),
    ):
        assert kstest(found[:, 0] / 0.5, "norm").pvalue > 0.01
        assert kstest(found[:, 0] / 0.42, "norm").pvalue < 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_is_that_of_diffusers(eta: float, prediction: str, clip: bool) -> None:
    diffusers = pytest.importorskip("diffusers", reason=NO_DIFFUSERS)
    theirs = diffusers.DDIMScheduler(1000, prediction_type=prediction, clip_sample=clip, timestep_spacing="trailing")
    theirs.set_timesteps(25)
    x = expected = numbers(3, 1, 6, 6, dtype=torch.float32)
    draws = numbers(25, 3, 1, 6, 6, name="draws", dtype=torch.float32)
    for t, z in zip(theirs.timesteps, draws, strict=True):
        answer = curved(expected, t.expand(3))
        expected = theirs.step(
            answer, t, expected, eta=eta, use_clipped_model_output=clip, variance_noise=z if eta else None
        ).prev_sample
    network = denoiser(curved, LINEAR, "v" if prediction == "v_prediction" else prediction, bound=1.0 if clip else None)
    given = iter(draws)
    found = ddim(network, LINEAR, x, theirs.timesteps, eta=eta, noise=lambda _: next(given))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("steps", "dtype", "near"), [(25, torch.float32, 1e-5), (1000, torch.float32, 1e-4), (1000, torch.float64, 1e-9)]
)
def test_ddpm_is_that_of_diffusers(prediction: str, steps: int, dtype: torch.dtype, near: float) -> None:
    """Over 1000 steps they round differently: its tables are float32. With ours in its place both agree."""
    diffusers = pytest.importorskip("diffusers", reason=NO_DIFFUSERS)
    theirs = diffusers.DDPMScheduler(1000, prediction_type=prediction, clip_sample=True)
    theirs.set_timesteps(steps)
    if dtype == torch.float64:
        theirs.alphas_cumprod = LINEAR.alpha_bar
    x = expected = numbers(3, 1, 6, 6, dtype=dtype)
    draws = seeding.generator(0, "test", "draws")
    for t in theirs.timesteps:
        expected = theirs.step(curved(expected, t.expand(3)), t, expected, generator=draws).prev_sample
    network = denoiser(curved, LINEAR, "v" if prediction == "v_prediction" else prediction, bound=1.0)
    noise = seeded_noise(seeding.generator(0, "test", "draws"))
    found = ddpm(network, LINEAR, x, theirs.timesteps, noise)
    assert float((found - expected).abs().max()) < near


def test_ddim_with_eta_1_is_ddpm() -> None:
    """Over any steps, by other equations."""
    steps = torch.tensor([999, 700, 650, 200, 31, 30, 2, 0])
    network = denoiser(curved, LINEAR, "v")
    x = numbers(2, 1, 5, 5)

    def noise() -> object:
        return seeded_noise(seeding.generator(1, "test", "same"))

    one = ddim(network, LINEAR, x, steps, eta=1.0, noise=noise())
    assert torch.allclose(one, ddpm(network, LINEAR, x, steps, noise()), atol=1e-9)
    assert not torch.allclose(one, ddim(network, LINEAR, x, steps), atol=1e-2)


def test_a_step_with_the_true_noise_is_exact() -> None:
    x_0, noise = numbers(2, 3, dtype=torch.float32), numbers(2, 3, name="e", dtype=torch.float32)
    for t, s in ((999, 500), (500, 499), (10, 0)):
        now, after = (float(LINEAR.alpha_bar[k]) for k in (t, s))
        x = now**0.5 * x_0 + (1 - now) ** 0.5 * noise
        moved = ddim_step(x, x_0, now, after)
        assert torch.allclose(moved, after**0.5 * x_0 + (1 - after) ** 0.5 * noise, atol=1e-6)


def test_sampling_from_pure_noise() -> None:
    """Where nothing of the image is left at the last step, Gaussian data still come out right."""
    schedule = zero_terminal(SCHEDULES.create("linear", 500))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        a, b = schedule.scales(t, x)
        return (a * b * x - a * b * 0.5**2 * x) / ((a * 0.5) ** 2 + b**2)

    network, x = denoiser(velocity, schedule, "v"), torch.ones(1, 1, dtype=torch.float64)
    units = iter(torch.eye(500, dtype=torch.float64)[1:, None])
    start = torch.eye(500, dtype=torch.float64)[:1]
    drawn = ddpm(network, schedule, start, torch.arange(499, -1, -1), lambda x: next(units))
    assert float(drawn.norm()) == pytest.approx(0.5, rel=0.03)
    # From pure noise, x_0 is the mean whatever x is, so the first step keeps the noise, and the rest is as ever
    assert float(ddim(network, schedule, x, torch.arange(499, -1, -1))) == pytest.approx(0.5, rel=0.03)


def test_samplers_are_differentiable_end_to_end() -> None:
    schedule = SCHEDULES.create("sigmoid", 16)
    network = denoiser(curved, schedule, "v")
    x = numbers(1, 1, 3, 3).requires_grad_()
    draws = numbers(16, 1, 1, 3, 3, name="draws")

    def by_ddpm(x: Tensor) -> Tensor:
        given = iter(draws)
        return ddpm(network, schedule, x, torch.arange(15, -1, -1), lambda _: next(given))

    assert torch.autograd.gradcheck(lambda x: ddim(network, schedule, x, schedule.spaced(6).flip(0)), (x,))
    assert torch.autograd.gradcheck(by_ddpm, (x,))
    before = x.detach().clone()
    by_ddpm(x)
    assert torch.equal(x, before)


def test_mistakes_are_explained() -> None:
    network, x = denoiser(curved, LINEAR, "v"), numbers(1, 1, 3, 3)
    noise = seeded_noise(seeding.generator(0, "test"))
    for steps in ([0, 500], [500, 500], [1000, 3], [3, -1], []):
        with pytest.raises(FedsimError, match="must fall"):
            ddim(network, LINEAR, x, torch.tensor(steps))
        with pytest.raises(FedsimError, match="must fall"):
            ddpm(network, LINEAR, x, torch.tensor(steps), noise)
    with pytest.raises(FedsimError, match="eta"):
        ddim(network, LINEAR, x, torch.tensor([5, 0]), eta=0.5)
    for eta in (-0.1, 40.0):
        with pytest.raises(FedsimError, match="eta from 0 to 1"):
            ddim(network, LINEAR, x, torch.tensor([5, 0]), eta=eta, noise=noise)
    with pytest.raises(FedsimError, match="pure noise"):
        denoiser(curved, Schedule(torch.tensor([0.5, 0.0], dtype=torch.float64)), "epsilon")

"""Image, noise and velocity, and the loss that training and attacks share."""

import pytest
import torch
from gaussians import Gaussian
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Objective, zero_terminal
from fedsim.diffusion.parametrisation import (
    from_velocity,
    image_from_noise,
    image_from_output,
    noise_from_image,
    noised,
    target,
    velocity,
)
from fedsim.errors import FedsimError


def pictures(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draws = seeding.generator(0, "test", "pictures")
    return tuple(torch.randn(2, count, 1, 4, 4, generator=draws, dtype=torch.float64).to(dtype))  # type: ignore[return-value]


class Small(nn.Module):
    """A smooth network of image and step."""

    def __init__(self) -> None:
        super().__init__()
        with seeding.borrowed_global_state(0, "test", "small"):
            self.first = nn.Linear(17, 9)
            self.second = nn.Linear(9, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        inputs = torch.cat([x.flatten(1), t[:, None].to(x) / 16], 1)
        return self.second(torch.tanh(self.first(inputs))).reshape(x.shape)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_the_rotation_is_exact_at_every_step(name: str) -> None:
    schedule = SCHEDULES.create(name, 1000)
    x_0, noise = pictures(1000, torch.float32)
    a, b = schedule.scales(torch.arange(1000), x_0)
    back, noise_back = from_velocity(noised(x_0, noise, a, b), velocity(x_0, noise, a, b), a, b)
    assert float((back - x_0).abs().max()) < 1e-6
    assert float((noise_back - noise).abs().max()) < 1e-6
    power = noised(x_0, noise, a, b) ** 2 + velocity(x_0, noise, a, b) ** 2
    assert torch.allclose(power, x_0**2 + noise**2, rtol=1e-5, atol=1e-6)


def test_noise_image_and_output_follow_from_each_other() -> None:
    schedule = SCHEDULES.create("cosine", 40)
    x_0, noise = pictures(40)
    a, b = schedule.scales(torch.arange(40), x_0)
    x = noised(x_0, noise, a, b)
    assert torch.allclose(noise_from_image(x, x_0, a, b), noise, atol=1e-12)
    assert torch.allclose(image_from_noise(x, noise, a, b), x_0, atol=1e-10)
    for prediction in ("epsilon", "v"):
        answer = target(prediction, x_0, noise, a, b)
        assert torch.allclose(image_from_output(prediction, x, answer, a, b), x_0, atol=1e-10)


def test_noising_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="NOT TESTED: noising. Run: pip install fedsim[diffusion]")
    schedule, theirs = SCHEDULES.create("linear", 1000), diffusers.DDPMScheduler(1000)
    x_0, noise = pictures(50, torch.float32)
    t = torch.arange(0, 1000, 20)
    a, b = schedule.scales(t, x_0)
    assert torch.allclose(noised(x_0, noise, a, b), theirs.add_noise(x_0, noise, t), atol=1e-5)
    assert torch.allclose(velocity(x_0, noise, a, b), theirs.get_velocity(x_0, noise, t), atol=1e-5)


def test_both_predictions_measure_the_same_error_of_the_image() -> None:
    """A velocity's error is the image's over b, a noise's is a / b of it: so v weighted by a^2 is the noise's loss."""
    schedule = SCHEDULES.create("sigmoid", 16)
    x_0, noise = pictures(16)
    t = torch.arange(16)
    a, b = schedule.scales(t, x_0)
    x = noised(x_0, noise, a, b)
    guess = 0.9 * x_0 + 0.1  # whatever a network sees

    def by_noise(*_: Tensor) -> Tensor:
        return noise_from_image(x, guess, a, b)

    def by_velocity(*_: Tensor) -> Tensor:
        return (a * x - guess) / b

    of_noise = Objective(schedule, "epsilon").each(by_noise, x_0, noise, t)
    assert torch.allclose(Objective(schedule, "v").each(by_velocity, x_0, noise, t), of_noise, rtol=1e-8)
    plain = Objective(schedule, "v", weighted=False).each(by_velocity, x_0, noise, t)
    assert torch.allclose(plain * schedule.alpha_bar, of_noise, rtol=1e-8)
    assert torch.allclose(of_noise, ((a / b) ** 2 * (guess - x_0) ** 2).flatten(1).mean(1), rtol=1e-8)


def test_the_exact_network_has_the_loss_that_theory_says() -> None:
    """For Gaussian data nobody gets below ``a^2 s^2 / (a^2 s^2 + b^2)`` with the noise."""
    schedule, s = SCHEDULES.create("linear", 100), 0.5
    x_0, noise = pictures(4000)
    t = torch.full((4000,), 20)
    bar = float(schedule.alpha_bar[20])
    least = bar * s**2 / (bar * s**2 + 1 - bar)
    found = Objective(schedule)(Gaussian(s).noise_network(schedule), s * x_0, noise, t)
    assert float(found) == pytest.approx(least, rel=0.02)  # 64,000 numbers: one deviation is 0.6 %
    assert float(Objective(schedule)(Gaussian(2 * s).noise_network(schedule), s * x_0, noise, t)) > 1.1 * least


def test_huber_is_half_the_square_of_small_errors_and_linear_in_large_ones() -> None:
    schedule = SCHEDULES.create("linear", 100)
    x_0, noise = pictures(3)
    t = torch.tensor([1, 50, 99])
    huber = Objective(schedule, error="huber")
    assert torch.allclose(huber.each(lambda x, t: noise + 0.1, x_0, noise, t), torch.full((3,), 0.005).double())
    assert torch.allclose(huber.each(lambda x, t: noise - 4, x_0, noise, t), torch.full((3,), 3.5).double())


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_has_second_derivatives(prediction: str) -> None:
    """As an attack needs them: of the distance of gradients by weights, by image and noise."""
    network, objective = Small().double(), Objective(SCHEDULES.create("sigmoid", 16), prediction)
    x_0, noise = (p.requires_grad_() for p in pictures(2))

    def gradients(image: Tensor, draws: Tensor) -> Tensor:
        loss = objective(network, image, draws, torch.tensor([3, 12]))
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()), create_graph=True)]
        )

    assert torch.autograd.gradcheck(gradients, (x_0, noise))


def test_gradients_of_single_examples_by_vmap() -> None:
    network, objective = Small().double(), Objective(SCHEDULES.create("sigmoid", 16), "v")
    x_0, noise = pictures(3)
    t = torch.tensor([0, 7, 15])
    weights = dict(network.named_parameters())

    def loss(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        x, draws, step = (part[None] for part in one)
        return objective(lambda *inputs: functional_call(network, weights, inputs), x, draws, step)

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, x_0, noise, t)
    whole = torch.autograd.grad(objective(network, x_0, noise, t), list(weights.values()))
    for name, gradient in zip(weights, whole, strict=True):
        assert torch.allclose(each[name].mean(0), gradient, atol=1e-12)


def test_what_cannot_be_learned_is_refused() -> None:
    schedule = SCHEDULES.create("linear", 100)
    with pytest.raises(FedsimError, match="pure noise"):
        Objective(zero_terminal(schedule), "epsilon")
    Objective(zero_terminal(schedule), "v")
    with pytest.raises(FedsimError, match="epsilon"):
        Objective(schedule, "epsilo")  # type: ignore[arg-type]
    with pytest.raises(FedsimError, match="huber"):
        Objective(schedule, error="hubr")  # type: ignore[arg-type]

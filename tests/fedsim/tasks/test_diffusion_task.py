"""The diffusion task: what a batch becomes, where its noise comes from, and that its loss is the objective's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Objective
from fedsim.errors import FedsimError
from fedsim.tasks import TASKS, Occasion
from fedsim.tasks.diffusion import Diffusion, Stepped

SCHEDULE = {"name": "cosine", "steps": 20}


def task(**parameters: Any) -> Diffusion:
    return Diffusion(**{"schedule": SCHEDULE, "sampling_steps": 4, **parameters})


class Toy(nn.Module):
    """An answer that depends on the image and on its step."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.7, -0.05]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale[0] * x + self.scale[1] * t.view(-1, 1, 1, 1)


def images(count: int = 5, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 4, 6, generator=seeding.generator(0, "test", "images")) * 2 - 1


def redrawn(path: tuple[str | int, ...], shape: torch.Size, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Noise and steps by the documented paths alone."""
    generator = seeding.generator(7, *path)
    noise, t = [], []
    for _ in range(shape[0]):
        noise.append(torch.randn(shape[1:], generator=generator))
        t.append(torch.randint(steps, (), generator=generator))
    return torch.stack(noise), torch.stack(t)


@pytest.mark.parametrize("parameters", [{}, {"prediction": "v"}, {"prediction": "v", "weighted": False},
                                        {"error": "huber"}, {"prediction": "v", "zero_terminal": True}])  # fmt: skip
def test_the_loss_of_a_posed_batch_is_the_objectives(parameters: dict[str, Any]) -> None:
    one, x_0, network = task(**parameters), images(), Toy()
    noise, t = redrawn(("client", 3, "round", 2, "step", 1, "noise"), x_0.shape)
    expected = one.goal(network, x_0, noise, t)
    inputs, targets = one.pose(x_0, torch.zeros(5), Occasion(7, 3, 2, 1))
    outputs = Stepped(network)(inputs)
    torch.testing.assert_close(one.loss(outputs, targets), expected, rtol=0, atol=0)
    torch.testing.assert_close(one.each(outputs, targets), one.goal.each(network, x_0, noise, t), rtol=0, atol=0)
    torch.testing.assert_close(one.total("loss", outputs, targets), 5 * expected)


def test_the_objective_is_that_of_the_schedule_named() -> None:
    x_0 = images()
    noise, t = redrawn(("round", 1, "step", 0, "noise"), x_0.shape)
    wanted = Objective(SCHEDULES.create("cosine", steps=20))(Toy(), x_0, noise, t)
    inputs, targets = task(noise="shared").pose(x_0, torch.zeros(5), Occasion(7, 4, 1))
    assert torch.equal(task().loss(Stepped(Toy())(inputs), targets), wanted)


def test_private_noise_is_a_clients_own_and_shared_noise_everybodys() -> None:
    occasions = [Occasion(7, client, round, step) for client in (0, 1) for round in (1, 2) for step in (0, 1)]
    for noise, different in (("private", 8), ("shared", 4)):
        drawn = [task(noise=noise).draws(occasion, (4, 1, 4, 4))[0] for occasion in occasions]
        assert len({tensor.numpy().tobytes() for tensor in drawn}) == different


@pytest.mark.parametrize("side", [3, 8])
def test_an_examples_draws_do_not_depend_on_the_size_of_its_batch(side: int) -> None:
    """Else clients with batches of different sizes would not share the noise."""
    (few, t_few), (many, t_many) = (task().draws(Occasion(7, 0, 1), (n, 1, side, side)) for n in (3, 40))
    assert torch.equal(few, many[:3])
    assert torch.equal(t_few, t_many[:3])


def test_noise_is_standard_normal_and_steps_are_spread_evenly() -> None:
    noise, t = task().draws(Occasion(7, 0, 1), (2000, 1, 4, 4))
    assert abs(float(noise.mean())) < 5 / (2000 * 16) ** 0.5
    assert abs(float(noise.std()) - 1) < 5 / (2 * 2000 * 16) ** 0.5
    counts = torch.bincount(t, minlength=20).float()
    assert float(((counts - 100) ** 2 / 100).sum()) < 50  # chi squared, 19 degrees of freedom: p = 1e-4


def test_samples_of_a_network_that_knows_the_image_are_that_image() -> None:
    """With the noise of x_t = a x_0 + b noise for any x_t, DDIM has to end in x_0."""
    one = task(count=3)
    truth = torch.full((1, 4, 4), 0.5)

    class Knowing(Toy):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a, b = one.goal.schedule.scales(t, x)
            return (x - a * truth) / b

    found = one.samples(Stepped(Knowing()), (1, 4, 4), seed=0)
    assert found is not None
    torch.testing.assert_close(found, torch.full((3, 1, 4, 4), 0.75), rtol=0, atol=1e-4)
    assert task(count=0).samples(Stepped(Knowing()), (1, 4, 4), seed=0) is None


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samplers_draw_what_was_learned(schedule: str) -> None:
    """Of Gaussian data, with the best network of it: each sampler's deviation is that of the data."""
    drawn = {}
    for sampler, steps in {"ddim": 200, "ddpm": 200, "heun": 30}.items():
        table = {"name": schedule, "steps": 1000}
        one = task(schedule=table, prediction="v", sampler=sampler, sampling_steps=steps)
        scales, asked = one.goal.schedule.scales, []

        class Best(Toy):
            def forward(self, x: Tensor, t: Tensor, scales: Any = scales, asked: list[int] = asked) -> Tensor:
                asked.append(int(t[0]))
                a, b = scales(t, x)
                return a * b * (1 - 0.25**2) * x / ((a * 0.25) ** 2 + b**2)

        found = one.samples(Stepped(Best()), (1, 16, 16), seed=0, count=20)
        assert found is not None
        assert float(found.std() * 2) == pytest.approx(0.25, rel=0.1)
        assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
        assert len(asked) == (2 * steps - 3 if sampler == "heun" else steps)
        drawn[sampler] = found
    assert not torch.allclose(drawn["ddim"], drawn["ddpm"], atol=0.05)
    assert not torch.equal(drawn["ddim"], drawn["heun"])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"schedule": {"name": "cosin", "steps": 9}}, ["cosin", "'cosine'"]),
        ({"schedule": {"name": "cosine", "stepps": 9}}, ["stepps", "'steps'"]),
        ({"sampling_steps": 21}, ["sampling_steps = 21", "20 steps"]),
        ({"prediction": "x"}, ["prediction", "'x'"]),
        ({"zero_terminal": True}, ["prediction", "'v'"]),
        ({"noise": "open"}, ["noise", "private"]),
        ({"count": -1}, ["count = -1"]),
        ({"sampler": "huen"}, ["sampler", "'heun'"]),
        ({"sampler": "heun", "sampling_steps": 2}, ["sampling_steps = 2", "3 or more"]),
        ({"shedule": {}}, ["shedule", "'schedule'"]),
    ],
)
def test_mistakes_are_named(parameters: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        TASKS.create("diffusion", **{"schedule": SCHEDULE, "sampling_steps": 4, **parameters})
    for word in words:
        assert word in str(error.value)

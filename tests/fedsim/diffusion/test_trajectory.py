"""Distillation along the teacher's trajectory: the target lands where the teacher does, and a student gets there."""

from __future__ import annotations

import pytest
import torch
from gaussians import Gaussian
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Schedule, at_teacher_steps, ddim, ddim_step, denoiser, fold
from fedsim.diffusion.distillation import published_fold
from fedsim.diffusion.parametrisation import Prediction, image_from_output, velocity
from fedsim.diffusion.trajectory import trajectory_loss, trajectory_target
from fedsim.errors import FedsimError

TEACHER = SCHEDULES.create("cosine", 200)


def numbers(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, "test", "trajectory", name), dtype=torch.float64)


class Small(nn.Module):
    """Answers that bend with the step, so that many steps lead elsewhere than few."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with seeding.borrowed_global_state(seed, "test", "small"):
            self.layers = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None].to(x) / 40
        return 2 * self.layers(torch.cat([x, angle.sin(), angle.cos()], 1))


def walked(teacher: nn.Module, prediction: Prediction, x: Tensor, steps: list[int]) -> Tensor:
    """Where a single image comes by the sampler's own steps; the last of them ends clean where it is -1."""
    estimate = denoiser(teacher, TEACHER, prediction, bound=1.0)
    bars = [float(TEACHER.alpha_bar[s]) if s >= 0 else 1.0 for s in steps]
    for t, now, after in zip(steps, bars, bars[1:], strict=False):
        x = ddim_step(x, estimate(x, torch.tensor([t])), now, after)
    return x


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_one_step_with_the_target_lands_where_the_teacher_lands_by_many(prediction: Prediction) -> None:
    teacher, folded = Small(), published_fold(TEACHER, 4)
    paths = {0: [0, -1], 1: [50, 38, 25, 13, 0], 3: [150, 138, 125, 113, 100]}  # rounded up
    for t, path in paths.items():
        x = numbers(1, 4, name=str(t))
        found = trajectory_target(teacher, folded, x, torch.tensor([t]), prediction=prediction, substeps=4)
        now, after = (float(TEACHER.alpha_bar[s]) if s >= 0 else 1.0 for s in (path[0], path[-1]))
        image = image_from_output(prediction, x, found, now**0.5, (1 - now) ** 0.5)
        with torch.no_grad():
            assert torch.allclose(ddim_step(x, image, now, after), walked(teacher, prediction, x, path), atol=1e-9)
        assert float(image.abs().max()) <= 1 + 1e-9  # a mean of images of the teacher, which are clamped


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_with_one_substep_it_is_the_published_target(prediction: Prediction) -> None:
    teacher, folded = Small(), fold(TEACHER, 10)
    x, t = numbers(10, 4), torch.arange(10)
    found = trajectory_target(teacher, folded, x, t, prediction=prediction, substeps=1, bound=None)
    with torch.no_grad():
        assert torch.allclose(found, teacher(x, folded.of_teacher(t)), atol=1e-9)


def test_a_batch_is_its_examples_one_by_one() -> None:
    """Each goes its own way, also those whose stride has room for fewer sub-steps."""
    teacher, folded = Small(), fold(SCHEDULES.create("cosine", 14), 6)  # strides of 1, 2 and 3
    x, t = numbers(6, 4), torch.arange(6)
    together = trajectory_target(teacher, folded, x, t, prediction="v", substeps=3)
    alone = [trajectory_target(teacher, folded, x[i : i + 1], t[i : i + 1], prediction="v", substeps=3) for i in t]
    assert torch.allclose(together, torch.cat(alone), atol=1e-12)


def test_who_is_told_classes_is_told_those_of_who_still_moves() -> None:
    inner, folded = Small(), fold(SCHEDULES.create("cosine", 14), 6)

    def teacher(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        answer: Tensor = inner(x, t) + labels[:, None]
        return answer

    x, t, labels = numbers(6, 4), torch.arange(6), torch.tensor([2, 0, 1, 1, 0, 2])
    found = trajectory_target(teacher, folded, x, t, prediction="v", substeps=3, labels=labels)
    for i in t:
        own = slice(int(i), int(i) + 1)
        alone = trajectory_target(
            lambda x, t, label=labels[own]: teacher(x, t, label), folded, x[own], t[own], prediction="v", substeps=3
        )
        assert torch.allclose(found[own], alone, atol=1e-12)


def test_the_perfect_student_draws_what_its_teacher_draws_by_many_steps() -> None:
    """On Gaussian data, where all answers are known; the published target's keeps the error of few steps."""
    schedule, known, count = SCHEDULES.create("cosine", 101), Gaussian(0.5), 6
    folded = fold(schedule, count)  # phi = 0, 20, .. 100
    network = known.noise_network(schedule)
    x = numbers(8, 3)
    by_all = ddim(known.denoise_steps(schedule), schedule, x, torch.arange(100, -1, -1))
    by_few = ddim(known.denoise_steps(schedule), schedule, x, folded.steps.flip(0))

    def taught(y: Tensor, t: Tensor) -> Tensor:
        return trajectory_target(network, folded, y, t, prediction="epsilon", substeps=20, bound=None)

    def sampled(student: object) -> Tensor:
        return ddim(denoiser(student, folded.student, "epsilon"), folded.student, x, torch.arange(count - 1, -1, -1))

    assert torch.allclose(sampled(at_teacher_steps(network, folded)), by_few, atol=1e-6)
    assert torch.allclose(sampled(taught), by_all, atol=1e-6)
    assert float((by_few - by_all).abs().mean()) > 0.01


class Gains(nn.Module):
    """One number a step that multiplies the noisy image, as Gaussian data ask; it starts at the teacher's."""

    def __init__(self, teacher: object, steps: Tensor) -> None:
        super().__init__()
        self.gains = nn.Parameter(teacher(torch.ones(len(steps), 1, dtype=torch.float64), steps))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gains[t] * x


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_student_comes_closer_to_the_full_sampler_than_the_teacher_by_as_few_steps(prediction: Prediction) -> None:
    known, folded = Gaussian(0.3), fold(TEACHER, 5)

    def teacher(x: Tensor, t: Tensor) -> Tensor:
        noise = known.noise_network(TEACHER)(x, t)
        return noise if prediction == "epsilon" else velocity(known.denoise_steps(TEACHER)(x, t), noise, *scales(x, t))

    def scales(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return TEACHER.scales(t, x)

    def drawn(network: object, schedule: Schedule, steps: Tensor) -> Tensor:
        with torch.no_grad():
            return ddim(denoiser(network, schedule, prediction, bound=1.0), schedule, start, steps.flip(0))

    start, student = numbers(64, 4, name="start"), Gains(teacher, folded.steps)
    start = torch.cat([start, start[:1].lerp(start[1:2], torch.linspace(0, 1, 9, dtype=torch.float64)[:, None])])
    full, few = drawn(teacher, TEACHER, torch.arange(200)), drawn(teacher, TEACHER, folded.steps)
    before = drawn(student, folded.student, torch.arange(5))
    draws = seeding.generator(0, "test", "trajectories")
    optimiser = torch.optim.Adam(student.parameters(), 1e-2)
    for _ in range(200):
        x_0, noise = (torch.randn(64, 4, generator=draws, dtype=torch.float64) for _ in range(2))
        t = torch.randint(5, (64,), generator=draws)
        optimiser.zero_grad()
        trajectory_loss(student, teacher, folded, 0.3 * x_0, noise, t, prediction=prediction, substeps=40).backward()
        optimiser.step()
    after = drawn(student, folded.student, torch.arange(5))
    assert torch.allclose(before, few, atol=1e-9)
    assert float((after - full).square().mean()) < float((few - full).square().mean()) / 10
    apart = torch.cdist(after[-9:], full[-9:])  # on the line between two starts: no other place is nearer than its own
    far = (torch.arange(9)[:, None] - torch.arange(9)).abs() >= 3
    assert bool((apart.diagonal()[:, None] < apart)[far].all())


def test_the_teacher_is_not_differentiated() -> None:
    teacher, student, folded = Small(0), Small(1), fold(TEACHER, 8)
    x_0, noise, t = numbers(8, 4), numbers(8, 4, name="e"), torch.arange(8)
    trajectory_loss(student, teacher, folded, x_0, noise, t, prediction="v").backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in student.parameters())


def test_mistakes_are_named() -> None:
    x, folded = numbers(2, 4), fold(TEACHER, 4)
    with pytest.raises(FedsimError, match="substeps = 0"):
        trajectory_target(Small(), folded, x, torch.tensor([0, 1]), prediction="v", substeps=0)
    with pytest.raises(FedsimError, match="steps run from 0 to 3"):
        trajectory_target(Small(), folded, x, torch.tensor([0, 4]), prediction="v")
    with pytest.raises(FedsimError, match="prediction"):
        trajectory_target(Small(), folded, x, torch.tensor([0, 1]), prediction="image")

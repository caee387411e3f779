"""Single-fold distillation: the student's noise is the teacher's, its target is the teacher's, and it learns."""

import pytest
import torch
from gaussians import Gaussian
from torch import Tensor, nn

from fedsim import seeding
from fedsim.diffusion import SCHEDULES, Fold, at_teacher_steps, ddim, denoiser, distillation_loss, fold, published_fold
from fedsim.diffusion.distillation import distillation_target
from fedsim.diffusion.parametrisation import noised
from fedsim.errors import FedsimError

TEACHER = SCHEDULES.create("sigmoid", 1024)


def numbers(*shape: int, name: str = "x", dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeding.generator(0, "test", "distilling", name), dtype=torch.float64).to(dtype)


class Small(nn.Module):
    """A network of image and step with hidden features; ``scale`` is what a step counts."""

    def __init__(self, seed: int, scale: float, width: int = 24) -> None:
        super().__init__()
        self.scale = scale
        with seeding.borrowed_global_state(seed, "test", "small"):
            self.first = nn.Linear(5, width)
            self.second = nn.Linear(width, 4)
        self.double()

    def features(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.first(torch.cat([x, t[:, None].to(x) / self.scale], 1)))
        return self.second(hidden), hidden

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.features(x, t)[0]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 128, 1024])
@pytest.mark.parametrize("folding", [fold, published_fold])
def test_the_student_sees_what_the_teacher_sees(folding: object, count: int) -> None:
    """Schedules first, then noisy images of the same images and noise, at matching steps."""
    folded = folding(TEACHER, count)
    student = folded.student
    assert len(student) == count
    assert float((student.alpha_bar - TEACHER.alpha_bar[folded.steps]).abs().max()) < 1e-12
    assert float((student.alpha.cumprod(0) - student.alpha_bar).abs().max()) < 1e-6
    t = torch.arange(count)
    x_0, noise = numbers(count, 1, 3, 3, dtype=torch.float32), numbers(count, 1, 3, 3, name="e", dtype=torch.float32)
    ours = noised(x_0, noise, *student.scales(t, x_0))
    theirs = noised(x_0, noise, *TEACHER.scales(folded.of_teacher(t), x_0))
    assert float((ours - theirs).abs().max()) < 1e-6


def test_one_student_step_is_the_teachers_chain_in_distribution() -> None:
    """``q(x_{phi_t} | x_{phi_{t-1}})`` by the student's alpha against the product of the teacher's."""
    folded = published_fold(TEACHER, 16)
    for t in range(1, 16):
        between = TEACHER.alpha[int(folded.steps[t - 1]) + 1 : int(folded.steps[t]) + 1]
        assert float(folded.student.alpha[t]) == pytest.approx(float(between.prod()), rel=1e-9)


def test_folds() -> None:
    assert published_fold(TEACHER, 2).steps.tolist() == [0, 512]
    assert published_fold(TEACHER, 128).steps.tolist() == list(range(0, 1024, 8))
    assert published_fold(TEACHER, 100).steps.tolist() == [int(10.24 * t + 1e-9) for t in range(100)]
    assert fold(TEACHER, 2).steps.tolist() == [0, 1023]
    for folding in (fold, published_fold):
        assert torch.equal(folding(TEACHER, 1024).student.alpha_bar, TEACHER.alpha_bar)


def test_a_copy_that_is_fed_the_teachers_steps_has_no_loss() -> None:
    teacher, folded = Small(0, 1024), fold(TEACHER, 10)
    x_0, noise, t = numbers(10, 4), numbers(10, 4, name="e"), torch.arange(10)
    student = Small(0, 1024).requires_grad_(False)
    copy = at_teacher_steps(student.features, folded)
    assert float(distillation_loss(copy, teacher.features, folded, x_0, noise, t)) == 0
    assert float(distillation_loss(student.features, teacher.features, folded, x_0, noise, t)) > 0.1


def test_the_loss_is_that_of_the_authors() -> None:
    """Mean absolute differences of answers and features, on the student's noisy images."""
    folded = published_fold(TEACHER, 4)
    x_0, noise, t = numbers(2, 4), numbers(2, 4, name="e"), torch.tensor([1, 3])
    a, b = TEACHER.alpha_bar[[256, 768]].sqrt()[:, None], (1 - TEACHER.alpha_bar[[256, 768]]).sqrt()[:, None]
    x = a * x_0 + b * noise

    def teacher(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert t.tolist() == [256, 768]
        return 2 * x, torch.ones(2, 3).double()

    def student(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert t.tolist() == [1, 3]
        return -x, torch.full((2, 3), 1.5).double()

    found = distillation_loss(student, teacher, folded, x_0, noise, t, feature_weight=10.0)
    assert float(found) == pytest.approx(float((3 * x).abs().mean()) + 5)


def test_only_the_student_learns() -> None:
    teacher, student, folded = Small(0, 1024), Small(1, 8), fold(TEACHER, 8)
    x_0, noise, t = numbers(8, 4), numbers(8, 4, name="e"), torch.arange(8)
    distillation_loss(student.features, teacher.features, folded, x_0, noise, t).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in student.parameters())
    assert not any(part.requires_grad for part in distillation_target(teacher.features, folded, x_0, t))


def test_the_best_student_of_the_best_teacher_samples_as_it_does() -> None:
    """On Gaussian data both optima are known; over the same steps they are one sampler."""
    schedule, known = SCHEDULES.create("cosine", 500), Gaussian(0.5)
    folded = fold(schedule, 20)
    x = numbers(6, 3)
    of_teacher = ddim(known.denoise_steps(schedule), schedule, x, folded.steps.flip(0))
    of_student = ddim(known.denoise_steps(folded.student), folded.student, x, torch.arange(19, -1, -1))
    assert torch.allclose(of_student, of_teacher, atol=1e-12)


def test_a_student_comes_to_sample_as_its_teacher() -> None:
    """From the same noise, over its 8 steps and the teacher's same ones; the mean squared distance falls far."""
    teacher, student, folded = Small(0, 1024), Small(1, 8), fold(TEACHER, 8)
    draws = seeding.generator(0, "test", "distil")
    optimiser = torch.optim.Adam(student.parameters(), 1e-2)
    down, x = torch.arange(7, -1, -1), numbers(64, 4)

    def distance() -> float:
        with torch.no_grad():
            wanted = ddim(denoiser(teacher, TEACHER, "v", bound=1.0), TEACHER, x, folded.steps.flip(0))
            found = ddim(denoiser(student, folded.student, "v", bound=1.0), folded.student, x, down)
        return float((wanted - found).square().mean())

    before = distance()
    for _ in range(250):
        x_0, noise = (torch.randn(64, 4, generator=draws, dtype=torch.float64) for _ in range(2))
        t = torch.randint(8, (64,), generator=draws)
        optimiser.zero_grad()
        distillation_loss(student.features, teacher.features, folded, 0.5 * x_0, noise, t).backward()
        optimiser.step()
    assert distance() < before / 10


def test_mistakes_are_explained() -> None:
    for steps in ([], [3, 2], [0, 0], [-1, 2], [0, 1024]):
        with pytest.raises(FedsimError, match="fold: steps"):
            Fold(TEACHER, torch.tensor(steps, dtype=torch.int64))
    for folding in (fold, published_fold):
        with pytest.raises(FedsimError, match="1024 steps"):
            folding(TEACHER, 1025)
    x_0, t = numbers(2, 4), torch.tensor([0, 1])
    with pytest.raises(FedsimError, match="project"):
        distillation_loss(Small(1, 8, width=7).features, Small(0, 1024).features, fold(TEACHER, 8), x_0, x_0, t)

"""GIDM: two searches of one observation, through a model that makes images of latents and then without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from overheard import Victim, clothes, overhear_denoising, psnr, state
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS
from adversary.diffusion.prior import generator, generator_of, prior_arrays
from adversary.diffusion.problems import Latents
from adversary.gidm import Gidm
from adversary.inversion import Candidate, Inversion
from fedsim import seeding
from fedsim.data import load
from fedsim.diffusion import ddim, denoiser
from fedsim.diffusion.distillation import fold
from fedsim.diffusion.student import Student, save_student
from fedsim.diffusion.unets import build
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge
from fedsim.tasks import Draws, Occasion
from fedsim.tasks.classification import Classification
from fedsim.tasks.diffusion import Diffusion

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TASK = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4)
SIDE = 8


def small(images: Tensor) -> Tensor:
    return functional.interpolate(images.float() / 255, (SIDE, SIDE), mode="area")


def victim(t: int, position: int = 0) -> Victim:
    images = small(load("fashion_mnist_small").test.images[position : position + 1])
    drawn = TASK.draws(Occasion(3, 0, 1), tuple(images.shape))
    return overhear_denoising(images, TASK, Draws(drawn.noise, torch.tensor([t])))


def wide(t: int) -> Victim:
    """One whose second size has 7x7 positions, fewer than channels."""
    images = functional.avg_pool2d(load("fashion_mnist_small").test.images[3:4].float() / 255, 2)
    drawn = TASK.draws(Occasion(3, 0, 1), tuple(images.shape))
    return overhear_denoising(images, TASK, Draws(drawn.noise, torch.tensor([t])), widths=(8, 56))


def attack(**parameters: object) -> Gidm:
    found = ATTACKS.create("gidm", **parameters)
    assert isinstance(found, Gidm)
    return found


def in_double(seen: Victim) -> Victim:
    """The same in double precision, as differences of small steps need it."""
    observation, noise = seen.observation, seen.knowledge.noise
    assert noise is not None
    sent, received = (
        {name: tensor.double() for name, tensor in arrays.items()}
        for arrays in (observation.sent, observation.received)
    )
    knowledge = replace(seen.knowledge, noise=noise.double())
    return replace(seen, observation=replace(observation, sent=sent, received=received), knowledge=knowledge)


def latents(seen: Victim, count: int = 4, *, save_memory: bool = False) -> Latents:
    pixels = ATTACKS.create("dlg")
    assert isinstance(pixels, Inversion)
    problem = pixels.problem([seen.observation], seen.knowledge, seed=0)
    arrays = prior_arrays("global", seen.observation, seen.knowledge)
    return Latents(problem, generator(arrays, seen.knowledge, count, "cpu", save_memory=save_memory))


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a model that has seen a thousand small pictures of clothes for some seconds."""
    network = victim(0).knowledge.model()
    images = small(load("fashion_mnist_small").train.images[:1000]) * 2 - 1
    search = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(300):
        batch = images[(torch.arange(32) + 32 * step) % len(images)]
        posed, targets = TASK.pose(batch, torch.zeros(0), Occasion(step=step))
        search.zero_grad()
        TASK.loss(network(posed), targets).backward()
        search.step()
    path = tmp_path_factory.mktemp("prior") / "model.safetensors"
    save_file(state(network), path)
    return path


def test_latents_have_the_derivative_of_finite_differences_with_and_without_checkpoints() -> None:
    seen = in_double(victim(7))
    z = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    along = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double()
    slopes = []
    for save_memory in (False, True):
        problem = latents(seen, save_memory=save_memory)
        candidate = problem.start(0)
        candidate.inputs = z
        (gradient,) = torch.autograd.grad(problem.objective(candidate), [z])
        slopes.append(float((gradient * along).sum()))
        ends = []
        for step in (1e-5, -1e-5):
            candidate.inputs = (z + step * along).detach()
            ends.append(problem.objective(candidate).item())
        assert slopes[-1] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    assert slopes[0] == slopes[1]


def test_a_generator_of_the_true_answer_makes_the_image_of_any_latents() -> None:
    """DDIM with what a perfect model would say of one image ends at that image."""
    image = small(clothes([0])[0] * 255) * 2 - 1

    def perfect(fed: Tensor) -> Tensor:
        x, t = fed[:, :-1], fed[:, -1, 0, 0].long()
        a, b = TASK.goal.schedule.scales(t, x)
        return a * (x - a * image) / b - b * image

    z = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    made = TASK.generated(perfect, z, 5)
    torch.testing.assert_close(made, image, atol=1e-4, rtol=0)
    with pytest.raises(FedsimError, match="sampling_steps = 16"):
        TASK.generated(perfect, z, 16)


def test_pixels_alone_are_found_from_noise() -> None:
    seen = victim(7)
    alone = attack(prior="none", iterations=400, learning_rate=0.05)
    found = alone.reconstruct([seen.observation], seen.knowledge, seed=0)
    assert psnr(found.images, seen.images) > 30
    assert found.iterations == len(found.history) == 400


def test_both_searches_are_of_one_objective_and_the_second_goes_on_where_the_first_ended(prior: Path) -> None:
    seen = victim(7, position=3)
    given = {"prior": str(prior), "latent_iterations": 80, "latent_learning_rate": 0.05}
    first = attack(iterations=0, **given).reconstruct([seen.observation], seen.knowledge, seed=0)
    assert first.iterations == 80
    assert first.loss == min(first.history)
    both = attack(iterations=100, **given).reconstruct([seen.observation], seen.knowledge, seed=0)
    assert both.history[:80] == first.history
    assert both.history[80] == pytest.approx(first.loss, rel=1e-3)
    assert both.loss == min(both.history)
    assert both.loss < 0.5 * first.loss
    assert psnr(both.images, seen.images) > psnr(first.images, seen.images)


def test_a_trained_prior_starts_nearer_than_a_random_one(prior: Path) -> None:
    scores = {}
    for name in (str(prior), "random"):
        each = []
        for position in range(3):
            seen = victim(7, position)
            one = attack(prior=name, latent_iterations=60, latent_learning_rate=0.05, iterations=0)
            each.append(psnr(one.reconstruct([seen.observation], seen.knowledge, seed=0).images, seen.images))
        scores[name] = sum(each) / 3
    assert scores[str(prior)] > scores["random"] + 2


def test_what_is_no_prior_is_said(tmp_path: Path) -> None:
    seen = victim(7)
    with pytest.raises(FedsimError, match=r"prior = 'gone\.safetensors': is no file"):
        attack(prior="gone.safetensors").reconstruct([seen.observation], seen.knowledge, seed=0)
    broken = tmp_path / "broken.safetensors"
    broken.write_text("nothing")
    with pytest.raises(FedsimError, match="cannot be read"):
        attack(prior=str(broken)).reconstruct([seen.observation], seen.knowledge, seed=0)
    with pytest.raises(FedsimError, match="make no images"):
        generator({}, Knowledge(nn.Identity, (1, 8, 8), 10, task=Classification()), 4, "cpu")


def test_a_student_of_all_steps_that_is_a_copy_of_its_teacher_makes_the_teachers_images(tmp_path: Path) -> None:
    given = {"widths": (8,), "groups": 4, "attention": False}
    network, schedule = build("unet", (1, SIDE, SIDE), seed=1, **given), TASK.goal.schedule
    save_student(Student(network, fold(schedule, 16), "v", "unet", given, (1, SIDE, SIDE)), tmp_path)
    seen = victim(7)
    z = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = ddim(denoiser(network, schedule, "v"), schedule, z, torch.arange(15, -1, -1))
    (slope,) = torch.autograd.grad(wanted.sum(), [z])
    for save_memory in (False, True):
        make = generator_of(str(tmp_path), seen.observation, seen.knowledge, 4, "cpu", save_memory=save_memory)
        made = make(z)
        torch.testing.assert_close(made, wanted)
        torch.testing.assert_close(torch.autograd.grad(made.sum(), [z])[0], slope)
    with pytest.raises(FedsimError, match=r"images are of shape \[1, 8, 8\], and the victim's are of \[1, 16, 16\]"):
        generator_of(str(tmp_path), seen.observation, replace(seen.knowledge, input_shape=(1, 16, 16)), 4, "cpu")


def test_of_more_latents_drawn_the_best_is_the_start() -> None:
    one = latents(victim(7))
    many = replace(one, draws=6)
    for attempt in range(3):
        first = one.start(attempt).inputs
        singles = torch.randn(6, 1, SIDE, SIDE, generator=seeding.generator(0, "attack", "latents", attempt))
        assert torch.equal(first[0], singles[0])
        gaps = [one.objective(Candidate(z[None])).item() for z in singles]
        assert one.objective(many.start(attempt)).item() == min(gaps) < max(gaps)


def test_a_step_that_is_withheld_is_read_and_the_same_bytes_are_found() -> None:
    seen = victim(11)
    short = attack(prior="none", iterations=20)
    granted = short.reconstruct([seen.observation], seen.knowledge, seed=0)
    withheld = replace(seen.knowledge, steps=None)
    assert torch.equal(short.reconstruct([seen.observation], withheld, seed=0).images, granted.images)
    two = replace(withheld, noise=torch.zeros(2, 1, SIDE, SIDE))
    with pytest.raises(FedsimError, match="rests on 2 examples"):
        short.reconstruct([replace(seen.observation, examples=2)], two, seed=0)


def test_each_start_has_a_latent_of_its_own_and_the_best_of_them_counts() -> None:
    seen = victim(7)
    many = attack(latent_iterations=4, iterations=3, restarts=3)
    told: list[tuple[int, float]] = []
    found = many.reconstruct(
        [seen.observation], seen.knowledge, seed=0, progress=lambda iterations, loss: told.append((iterations, loss))
    )
    alone = [many._both(replace(latents(seen), first=4 * start), None, None).loss for start in range(3)]
    assert len(set(alone)) == 3
    assert found.loss == pytest.approx(min(alone), rel=1e-4)
    assert [iterations for iterations, _ in told] == list(range(1, 22))
    assert told[-1][1] == found.loss
    assert found.iterations == 21
    assert attack(latent_iterations=4, iterations=3).reconstruct(
        [seen.observation], seen.knowledge, seed=0
    ).loss == pytest.approx(alone[0], rel=1e-4)


def test_a_search_ends_at_its_tolerance() -> None:
    seen = victim(7)
    found = attack(prior="none", iterations=400, optimiser="lbfgs", tolerance=1e-4).reconstruct(
        [seen.observation], seen.knowledge, seed=0
    )
    assert found.stopped_by == "tolerance"
    assert found.loss <= 1e-4 < min(found.history[:-1])
    assert found.iterations < 400


@pytest.mark.parametrize("t", [0, 7, 15])
def test_the_image_that_the_gradient_gives_away_is_where_the_search_of_pixels_begins(t: int) -> None:
    seen = wide(t)
    from_noise, given_away = (
        attack(prior="none", optimiser="lbfgs", iterations=20, **how).reconstruct(
            [seen.observation], seen.knowledge, seed=0
        )
        for how in ({}, {"start": "features"})
    )
    assert given_away.history[0] < 1e-2 * from_noise.history[0]
    assert psnr(given_away.images, seen.images) > max(40, psnr(from_noise.images, seen.images) + 10)


def test_with_a_prior_the_first_search_is_left_out_only_where_an_image_is_given_away() -> None:
    given = {"prior": "random", "latent_iterations": 5, "iterations": 5}
    seen = wide(7)
    found = attack(start="features", **given).reconstruct([seen.observation], seen.knowledge, seed=0)
    assert found.iterations == 5
    alone = attack(start="features", **given | {"iterations": 0}).reconstruct(
        [seen.observation], seen.knowledge, seed=0
    )
    assert alone.iterations == 1
    assert psnr(alone.images, seen.images) > 30
    narrow = victim(7)
    both, either = (
        attack(start=start, **given).reconstruct([narrow.observation], narrow.knowledge, seed=0)
        for start in ("latents", "features")
    )
    assert both.iterations == 10
    assert torch.equal(either.images, both.images)
    with pytest.raises(FedsimError, match=r"start.*'feature'"):
        attack(start="feature")

"""GIDM+: step, noise and image of one example, none of them known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import Victim, overhear_denoising, psnr
from torch.nn.functional import avg_pool2d, interpolate

from adversary import ATTACKS
from adversary.diffusion import step_guesses
from adversary.diffusion.observed import observed
from adversary.diffusion.step_guesses import Guess, Relaxed, guess
from adversary.diffusion.unknowns import Unknowns, Variables
from adversary.gidm_plus import GidmPlus
from adversary.inversion import Solution, Solver
from fedsim.data import load
from fedsim.errors import FedsimError
from fedsim.protocol import Reconstruction
from fedsim.tasks import Draws, Occasion
from fedsim.tasks.diffusion import Diffusion

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TASK = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4)
READABLE = (8, 56)
"""With 14x14 images the second size has 7x7 positions, fewer than channels."""


def victim(
    t: int, side: int = 8, *, widths: tuple[int, ...] = (8, 16), task: Diffusion = TASK, label: int = 0
) -> Victim:
    """A victim of whom nothing is granted, set D."""
    images = load("fashion_mnist_small").test.images[3:4].float() / 255
    small = avg_pool2d(images, 2) if side == 14 else interpolate(images, (side, side), mode="area")
    drawn = task.draws(Occasion(3, 0, 1), tuple(small.shape))
    draws = Draws(drawn.noise, torch.tensor([t]))
    seen = overhear_denoising(small, task, draws, widths=widths, labels=torch.tensor([label]))
    return replace(seen, knowledge=replace(seen.knowledge, noise=None, steps=None))


def attacked(seen: Victim, **parameters: object) -> Reconstruction:
    attack = ATTACKS.create("gidm_plus", **parameters)
    assert isinstance(attack, GidmPlus)
    return attack.reconstruct([seen.observation], seen.knowledge, seed=0)


@pytest.mark.parametrize("t", [1, 7, 13])
def test_image_and_noise_are_found_by_search_though_neither_they_nor_the_step_are_known(t: int) -> None:
    seen = victim(t)
    found = attacked(seen, start="noise")
    assert found.loss < 1e-10
    assert psnr(found.images, seen.images) > 60


def test_the_closed_form_gives_the_image_away_before_any_search() -> None:
    seen = victim(7, 14, widths=READABLE)
    found = attacked(seen, iterations=0)
    assert psnr(found.images, seen.images) > 40


def test_the_search_goes_on_from_the_closed_form() -> None:
    seen = victim(7, 14, widths=READABLE)
    before = attacked(seen, iterations=0)
    after = attacked(seen, iterations=40, restarts=1)
    assert after.loss < before.loss
    assert psnr(after.images, seen.images) > psnr(before.images, seen.images)


@pytest.mark.parametrize("variables", ["image_noise", "noisy_velocity", "noisy_residual"])
def test_the_truth_explains_the_gradient_in_all_variables(variables: Variables) -> None:
    seen = victim(5)
    whole = observed(seen.observation, seen.knowledge, dtype=torch.float64)
    drawn = TASK.draws(Occasion(3, 0, 1), tuple(seen.images.shape))
    assert drawn.noise is not None
    t = torch.tensor([5])
    noisy, _ = TASK.goal.posed(seen.images.double() * 2 - 1, drawn.noise.double(), t)
    problem = Unknowns(whole, t, 0, variables, first=noisy)
    start = problem.start(0)
    assert float(problem.objective(start).detach()) < 1e-10
    image, noise = problem.found(start)
    torch.testing.assert_close(image, seen.images.double() * 2 - 1, atol=1e-4, rtol=0)
    torch.testing.assert_close(noise, drawn.noise.double(), atol=1e-4, rtol=0)


def test_a_known_noise_is_not_searched_for() -> None:
    seen = victim(3)
    drawn = TASK.draws(Occasion(3, 0, 1), tuple(seen.images.shape))
    granted = replace(seen, knowledge=replace(seen.knowledge, noise=drawn.noise))
    found = attacked(granted, start="noise", iterations=400)
    assert psnr(found.images, seen.images) > 60


@pytest.mark.parametrize("t", [2, 11])
def test_the_step_is_read(t: int) -> None:
    seen = victim(t)
    assert guess("readout", observed(seen.observation, seen.knowledge, dtype=torch.float64), seed=0) == t


def test_the_step_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the noise known the right step stands out after fewer iterations."""
    monkeypatch.setattr(step_guesses, "SHORT", 50)
    t = 11
    seen, noise = victim(t), TASK.draws(Occasion(3, 0, 1), (1, 1, 8, 8)).noise
    assert noise is not None
    whole = observed(seen.observation, seen.knowledge, dtype=torch.float64)
    assert guess("enumerate", whole, seed=0, noise=noise.double()) == t


def test_of_a_long_schedule_a_grid_is_tried_and_then_what_is_around_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def solve(_: Solver, problem: Unknowns, *__: object) -> Solution:
        tried.append(int(problem.t))
        return Solution(None, abs(int(problem.t) - 713.0), (), 0, "iterations")

    monkeypatch.setattr(Solver, "solve", solve)
    task = Diffusion(schedule={"name": "linear", "steps": 1000}, sampling_steps=4)
    seen = victim(713, task=task)
    assert guess("enumerate", observed(seen.observation, seen.knowledge, dtype=torch.float64), seed=0) == 713
    assert len(tried) < 50


@pytest.mark.parametrize("how", ["soft", "gumbel"])
def test_relaxations_are_at_the_truth_where_the_weights_are_of_the_true_step(how: Guess) -> None:
    """Whether a search gets there is for the tables to say."""
    seen = victim(2)
    noise = TASK.draws(Occasion(3, 0, 1), (1, 1, 8, 8)).noise
    assert noise is not None
    problem = Relaxed(observed(seen.observation, seen.knowledge, dtype=torch.float64), 0, hard=how == "gumbel")
    candidate = problem.start(0)
    uncertain = float(problem.objective(candidate).detach())
    logits = torch.full((16,), -1e3, dtype=torch.float64)
    logits[2] = 1e3
    with torch.no_grad():
        candidate.inputs.copy_(seen.images * 2 - 1)
        for unknown, value in zip(candidate.unknowns, (noise, logits), strict=True):
            unknown.copy_(value)
    assert float(problem.objective(candidate).detach()) < 1e-10 < uncertain


@pytest.mark.parametrize("how", ["soft", "gumbel"])
def test_weights_of_steps_get_a_gradient(how: Guess) -> None:
    """In the code of the paper they pass through an argmax, and get none."""
    seen = victim(2)
    problem = Relaxed(observed(seen.observation, seen.knowledge, dtype=torch.float64), 0, hard=how == "gumbel")
    candidate = problem.start(0)
    (slope,) = torch.autograd.grad(problem.objective(candidate), [candidate.unknowns[-1]])
    assert float(slope.norm()) > 0


def test_a_conditional_network_is_told_the_class_that_its_gradient_gives_away() -> None:
    task = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4, conditional=True)
    seen = victim(7, 14, widths=READABLE, task=task, label=6)
    found = attacked(seen, iterations=0)
    assert found.labels.tolist() == [6]
    assert psnr(found.images, seen.images) > 40


def test_batches_and_unknown_names_are_refused() -> None:
    seen = victim(7)
    several = replace(seen, observation=replace(seen.observation, examples=2))
    with pytest.raises(FedsimError, match="at most 1 example"):
        attacked(several)
    with pytest.raises(FedsimError, match="gidm_plus: steps"):
        attacked(seen, steps="guesswork")
    with pytest.raises(FedsimError, match="gidm_plus: variables"):
        attacked(seen, variables="pixels")

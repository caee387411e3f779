"""Distances, priors and optimisers against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from overheard import clothes
from torch import Tensor
from torch.nn import functional

from adversary.inversion import LBFGS, Adam, Cosine, Euclidean, SignAdam, TotalVariation, total_variation


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws, dtype=dtype) for shape in ((3, 2), (3,), (2, 3, 1))]


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def test_cosine_is_that_of_the_concatenated_tensors() -> None:
    a, b = tensors(0), tensors(1)
    expected = 1 - functional.cosine_similarity(flat(a), flat(b), dim=0)
    assert Cosine()(a, b).item() == pytest.approx(expected.item(), abs=1e-12)


def test_cosine_runs_from_0_to_2_and_ignores_scale() -> None:
    a, b = tensors(0), tensors(1)
    assert Cosine()(a, [3 * t for t in a]).item() == pytest.approx(0, abs=1e-14)
    assert Cosine()(a, [-t for t in a]).item() == pytest.approx(2)
    assert Cosine()([1e-6 * t for t in a], [1e5 * t for t in b]).item() == pytest.approx(Cosine()(a, b).item())


def test_cosine_stays_exact_for_nearly_parallel_updates_in_single_precision() -> None:
    """The textbook form rounds an angle of 1e-5 to 0 or to 1.2e-7; its cosine distance is 5e-11."""
    a, b = tensors(0), tensors(1)
    u = flat(a) / flat(a).norm()
    across = flat(b) - (flat(b) @ u) * u
    near = u + 1e-5 * across / across.norm()
    found = Cosine()([near.float()], [u.float()]).item()
    assert found == pytest.approx(5e-11, rel=0.05)


@pytest.mark.parametrize("zero_side", [0, 1])
def test_cosine_with_a_zero_update_is_1_and_has_finite_gradients(zero_side: int) -> None:
    pair = [tensors(0, torch.float32), tensors(1, torch.float32)]
    pair[zero_side] = [torch.zeros_like(t) for t in pair[zero_side]]
    simulated = [t.requires_grad_() for t in pair[0]]
    distance = Cosine()(simulated, pair[1])
    assert distance.item() == 1
    assert all(g.isfinite().all() for g in torch.autograd.grad(distance, simulated))


@pytest.mark.parametrize("distance", [Cosine(), Euclidean(), Euclidean(relative=True)])
def test_gradients_of_distances_are_those_of_finite_differences(distance: Cosine | Euclidean) -> None:
    target = tensors(1)
    simulated = [t.requires_grad_() for t in tensors(0)]
    assert torch.autograd.gradcheck(lambda *s: distance(list(s), target), simulated)


def test_euclidean_is_the_sum_of_squares_and_relative_to_the_target_if_asked() -> None:
    a, b = tensors(0), tensors(1)
    squared = (flat(a) - flat(b)).square().sum().item()
    assert Euclidean()(a, b).item() == pytest.approx(squared)
    assert Euclidean(relative=True)(a, b).item() == pytest.approx(squared / flat(b).square().sum().item())


def test_total_variation_of_known_images() -> None:
    assert total_variation(torch.full((2, 3, 5, 7), 0.3)).item() == 0
    ramp = torch.linspace(0, 1, 5).expand(2, 3, 4, 5)  # a step of 1/4 to the right, none downwards
    assert total_variation(ramp).item() == pytest.approx(0.25)
    assert total_variation(ramp.transpose(2, 3)).item() == pytest.approx(0.25)
    assert TotalVariation(8.0)(ramp).item() == pytest.approx(2.0)


def test_total_variation_of_real_images_is_far_below_that_of_noise() -> None:
    images, _ = clothes(list(range(20)))
    noise = images.flatten()[torch.randperm(images.numel(), generator=torch.Generator().manual_seed(0))]
    assert total_variation(images).item() < 0.5 * total_variation(noise.view_as(images)).item()


def test_gradient_of_total_variation_is_that_of_finite_differences() -> None:
    images = tensors(0)[0].view(1, 1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(TotalVariation(0.7), images)


def test_signed_adam_depends_on_the_signs_alone() -> None:
    """Two objectives whose gradients agree in sign but not in size lead to the same point."""
    ends = []
    for scale in (torch.tensor([1.0, 100.0]), torch.tensor([7.0, 1e-3])):
        x = torch.tensor([3.0, -2.0], requires_grad=True)
        step = SignAdam(learning_rate=0.1).begin([x], 20)
        for _ in range(20):

            def evaluate(x: Tensor = x, scale: Tensor = scale) -> Tensor:
                x.grad = scale * x.detach()
                return x.detach()

            step(evaluate)
        ends.append(x.detach())
    assert torch.equal(ends[0], ends[1])


def test_step_size_falls_to_a_tenth_at_3_5_and_7_eighths() -> None:
    """With a constant gradient each step of Adam moves by the step size."""
    x = torch.zeros(1, requires_grad=True)
    step = SignAdam(learning_rate=1.0).begin([x], 16)
    moves = []
    for _ in range(16):
        before = x.item()

        def evaluate() -> Tensor:
            x.grad = torch.ones(1)
            return x.detach()

        step(evaluate)
        moves.append(before - x.item())
    expected = [1.0] * 6 + [0.1] * 4 + [0.01] * 4 + [0.001] * 2
    assert moves == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1e-9])
def test_lbfgs_solves_a_quadratic_however_small_its_scale(factor: float) -> None:
    """PyTorch's own thresholds are absolute: without scaling, 1e-9 of the objective stays unsolved."""
    curvature = torch.logspace(-1, 1, 6)
    x = torch.ones(6, requires_grad=True)
    step = LBFGS().begin([x], 60)

    def evaluate() -> Tensor:
        x.grad = factor * curvature * x.detach()
        return factor * (curvature * x.detach().square()).sum() / 2

    for _ in range(5):
        step(evaluate)
    assert x.detach().abs().max().item() < 1e-3


def test_adam_reaches_the_minimum_of_a_quadratic() -> None:
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    step = Adam(learning_rate=0.1, decay_at=(0.5, 0.75)).begin([x], 400)

    def evaluate() -> Tensor:
        x.grad = 2 * (x.detach() - 0.3)
        return (x.detach() - 0.3).square().sum()

    for _ in range(400):
        step(evaluate)
    assert math.isclose(x[0].item(), 0.3, abs_tol=1e-3)
    assert math.isclose(x[1].item(), 0.3, abs_tol=1e-3)

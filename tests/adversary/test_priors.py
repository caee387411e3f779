"""Batch-norm statistics, copies tied in any order, groups of starting points, and noisy steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from overheard import Victim, clothes, overhear_client, overhear_gradient
from torch import Tensor, nn

from adversary import ATTACKS
from adversary.inversion import (
    BatchStatistics,
    Cosine,
    Group,
    Inversion,
    LangevinAdam,
    Magnitude,
    OutOfRange,
    SameImages,
    SignAdam,
    SingleGradient,
    Solver,
    Together,
    TotalVariation,
    Unrolled,
)
from adversary.inversion.copies import common
from adversary.inversion.statistics import moments
from adversary.labels import counts
from adversary.network import build, place
from fedsim.errors import FedsimError
from fedsim.protocol import TrainingPlan

ONE_STEP = TrainingPlan(batch_size=None, local_epochs=1, mode="train")


def statistics(victim: Victim, known: Any = "batch") -> Any:
    mode = "train" if victim.observation.plan is None else victim.observation.plan.mode
    network = build(victim.knowledge, mode, "cpu")
    return BatchStatistics(1.0, known).bind(network, victim.observation, victim.knowledge, "cpu")


# Batch-norm statistics


def test_the_clients_answer_shows_the_statistics_of_its_batch() -> None:
    """After one step in train mode the penalty of the true batch is 0, and of no other; that of running ones is not."""
    victim = overhear_client([0, 1, 2, 3], ONE_STEP, model="convnet", width=8)
    others, _ = clothes([10, 11, 12, 13])
    exact, running = statistics(victim), statistics(victim, "running")
    truth = exact(victim.images).item()
    assert truth < 1e-3 * exact(others).item()
    assert truth < 1e-3 * running(victim.images).item()
    assert exact(victim.images[[2, 0, 3, 1]]).item() == pytest.approx(truth, abs=1e-4)


def test_the_moments_are_those_of_what_enters_the_layer() -> None:
    victim = overhear_client([0, 1, 2], ONE_STEP, model="convnet", width=8)
    network = build(victim.knowledge, "train", "cpu")
    weights = place(network, victim.observation.sent, "cpu")
    inputs = victim.knowledge.normalise(victim.images)
    found = moments(network, weights, inputs)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    features = first(inputs)  # the fresh network is at the weights sent
    mean, variance = found[next(iter(found))]
    torch.testing.assert_close(mean, features.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(variance, features.var(dim=(0, 2, 3)))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_of_several_steps_the_answer_shows_their_weighted_mean() -> None:
    """With weights that hardly move and full batches each step's statistics are the same, and the mean is theirs."""
    plan = replace(ONE_STEP, local_epochs=3, learning_rate=1e-7)
    victim = overhear_client([0, 1, 2, 3], plan, model="convnet", width=8)
    assert statistics(victim)(victim.images).item() < 1e-3 * statistics(victim, "running")(victim.images).item()


def test_where_no_statistics_moved_the_running_ones_count_and_without_batch_norm_nothing_does() -> None:
    frozen = overhear_client([0, 1], replace(ONE_STEP, mode="eval"), model="convnet", width=8)
    assert torch.equal(statistics(frozen)(frozen.images), statistics(frozen, "running")(frozen.images))
    unsent = overhear_gradient(*clothes([0, 1]), model="convnet")  # a gradient without buffers
    assert statistics(unsent)(unsent.images).item() > 0
    plain = overhear_client([0, 1], ONE_STEP, model="cnn")
    assert statistics(plain)(plain.images).item() == 0


def test_copies_are_one_batch_to_the_statistics() -> None:
    victim = overhear_client([0, 1, 2, 3], ONE_STEP, model="convnet", width=8)
    exact = statistics(victim)
    assert torch.equal(exact(victim.images.view(2, 2, 1, 28, 28)), exact(victim.images))


# Copies


@pytest.mark.parametrize("features", ["convolution", "pixels"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_order_within_a_copy_does_not_matter_and_equal_copies_are_free(features: Any, pool: Any) -> None:
    tie = SameImages(2.0, features=features, pool=pool)
    images, _ = clothes([0, 1, 2, 3])
    shuffled = images[[3, 1, 0, 2]]
    assert tie(images).item() == 0
    assert tie(torch.stack([images, shuffled])).item() == pytest.approx(0, abs=1e-12)
    other = torch.stack([images, clothes([4, 5, 6, 7])[0]])
    assert tie(other).item() > 1e-4
    moved = torch.stack([images[[1, 0, 2, 3]], other[1][[2, 3, 1, 0]]])
    assert tie(moved).item() == pytest.approx(tie(other).item(), rel=1e-5)


def test_the_tie_is_the_papers_sum_over_pairs_of_copies() -> None:
    copies = torch.rand(3, 4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    pooled = copies.mean(dim=1)
    pairs = [(a - b).square().mean() for a in pooled for b in pooled]
    expected = 5.0 * torch.stack(pairs).sum() / 9
    torch.testing.assert_close(SameImages(5.0, features="pixels", pool="mean")(copies), expected)


def test_what_copies_have_in_common_is_found_in_any_order_within_a_label() -> None:
    images, _ = clothes([0, 1, 2, 3])
    labels = torch.tensor([5, 5, 5, 7])
    noise = 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    found = common(torch.stack([images, images[[2, 0, 1, 3]] + noise]), labels)
    assert (found - images).abs().max() < 0.05
    # Images of other labels are never exchanged, however near they are.
    swapped = common(torch.stack([images, images[[3, 1, 2, 0]]]), labels)
    torch.testing.assert_close(swapped[3], (images[3] + images[0]) / 2)


def test_with_one_epoch_copies_are_the_images_themselves() -> None:
    victim = overhear_client([0, 1, 2], TrainingPlan(batch_size=None, local_epochs=1, mode="eval"))
    network = build(victim.knowledge, "eval", "cpu")
    copies, plain = (
        Unrolled(how).bind(network, victim.observation, victim.knowledge, "cpu")  # type: ignore[arg-type]
        for how in ("copies", "shuffled")
    )
    x = victim.knowledge.normalise(victim.images)
    assert all(torch.equal(a, b) for a, b in zip(copies(x, victim.labels), plain(x, victim.labels), strict=True))


def test_true_copies_in_any_order_cause_the_update_up_to_the_batches_they_fall_into() -> None:
    """Each epoch's copy holds the true images in the order in which they were really used: the update is exact."""
    plan = TrainingPlan(batch_size=2, local_epochs=3, learning_rate=0.05, mode="eval")
    victim = overhear_client([0, 1, 2, 3, 4, 5], plan)
    labels = torch.zeros(6, dtype=torch.int64)  # so that the images alone decide
    victim = replace(victim, labels=labels)
    network = build(victim.knowledge, "eval", "cpu")
    free = Unrolled("copies").bind(network, victim.observation, victim.knowledge, "cpu")
    given = Unrolled("given").bind(network, victim.observation, victim.knowledge, "cpu")
    x = victim.knowledge.normalise(victim.images)
    order = victim.knowledge.batch_order
    assert order is not None
    inputs = torch.zeros(3 * 6, 1, 28, 28)
    for stretch, batch in zip(free.stretches, order, strict=True):  # type: ignore[union-attr]
        inputs[stretch.batch] = x[batch]
    for a, b in zip(free(inputs, labels), given(x, labels), strict=True):  # type: ignore[operator]
        torch.testing.assert_close(a, b)


# Groups


def problem_of(victim: Victim, **parts: Any) -> Any:
    return Inversion(counts, SingleGradient(), Cosine(), SignAdam(), Solver(10), **parts).problem(
        [victim.observation], victim.knowledge, seed=0
    )


def test_a_group_without_consistency_takes_the_steps_of_each_start_alone() -> None:
    victim = overhear_gradient(*clothes([0, 1]), model="cnn")
    problem = problem_of(victim)
    group = Group(problem, 3, 0.0)
    candidate = group.start(0)
    starts = [problem.start(number) for number in range(3)]
    assert torch.equal(candidate.inputs, torch.cat([start.inputs for start in starts]))
    losses = [problem.objective(start) for start in starts]
    together = group.objective(candidate)
    assert together.item() == pytest.approx(sum(loss.item() for loss in losses) / 3, rel=1e-6)
    (found,) = torch.autograd.grad(together, candidate.inputs)
    alone = [torch.autograd.grad(loss, start.inputs)[0] / 3 for loss, start in zip(losses, starts, strict=True)]
    torch.testing.assert_close(found, torch.cat(alone))
    best = min(range(3), key=lambda number: losses[number].item())
    assert torch.equal(group.best(candidate).inputs, starts[best].inputs)
    assert not torch.equal(group.start(1).inputs, candidate.inputs)


def test_consistency_pulls_to_the_mean_and_is_the_root_mean_square_from_it() -> None:
    victim = overhear_gradient(*clothes([0, 1]), model="cnn")
    problem = problem_of(victim)
    candidate = Group(problem, 3, 1.0).start(0)
    pulled, free = (Group(problem, 3, weight).objective(candidate) for weight in (1.0, 0.0))
    members = candidate.inputs.view(3, -1)
    expected = (members - members.mean(dim=0)).square().mean(dim=1).sqrt().mean()
    assert (pulled - free).item() == pytest.approx(expected.item(), rel=1e-4)
    (direction,) = torch.autograd.grad(pulled - free, candidate.inputs)
    away = members - members.mean(dim=0)
    assert torch.cosine_similarity(direction.view(3, -1), away, dim=1).min() > 0.99


def test_members_end_up_nearer_to_each_other_the_more_they_are_pulled() -> None:
    victim = overhear_gradient(*clothes([0, 1]), model="cnn")
    spreads = []
    for weight in (0.0, 1.0):
        group = Group(problem_of(victim), 3, weight)
        solution = Solver(30).solve(group, SignAdam())
        assert solution.candidate is not None
        spreads.append(solution.candidate.inputs.view(3, -1).std(dim=0).mean().item())
    assert spreads[1] < 0.5 * spreads[0]


# Steps and small priors


def test_the_step_size_rises_and_falls_as_a_cosine_and_noise_is_seeded() -> None:
    """With a constant gradient Adam's direction is 1: what is left of a step is the step size and the noise."""

    def moves(noise: float) -> Tensor:
        x = torch.zeros(2000, requires_grad=True)
        step = LangevinAdam(learning_rate=0.1, warm_up=0.1, noise=noise).begin([x], 100)

        def evaluate() -> Tensor:
            x.grad = torch.ones_like(x)
            return x.sum()

        places = [x.detach().clone()]
        for _ in range(100):
            step(evaluate)
            places.append(x.detach().clone())
        return -torch.stack(places).diff(dim=0)

    rates = moves(0.0)[:, 0]
    assert rates[:10].tolist() == pytest.approx([0.01 * k for k in range(1, 11)], rel=1e-4)
    assert rates[10].item() == pytest.approx(0.1, rel=1e-4)
    assert rates[55].item() == pytest.approx(0.05, rel=1e-3)
    assert rates[-1].item() < 1e-3
    noisy = moves(0.2)
    spread = noisy.std(dim=1)
    torch.testing.assert_close(spread[:90], 0.2 * rates[:90], rtol=0.1, atol=0)
    assert torch.equal(noisy, moves(0.2))


def test_small_priors_are_their_formulas_and_add_up() -> None:
    images = torch.tensor([-1.0, 0.0, 0.5, 3.0]).view(1, 1, 2, 2)
    assert OutOfRange(2.0)(images).item() == pytest.approx(2 * (1 + 4) / 4)
    assert Magnitude(2.0)(images).item() == pytest.approx(2 * ((1.5**2 + 0.5**2 + 2.5**2) / 4) ** 0.5)
    victim = overhear_gradient(*clothes([0]), model="cnn")
    parts = (OutOfRange(2.0), Magnitude(3.0), TotalVariation(0.5))
    network = build(victim.knowledge, "eval", "cpu")
    total = Together(parts).bind(network, victim.observation, victim.knowledge, "cpu")
    assert total(images).item() == pytest.approx(sum(part(images).item() for part in parts))


# Whole attacks


def quality(victim: Victim, name: str, **parameters: Any) -> float:
    order = victim.labels.argsort()
    attack = ATTACKS.create(name, **parameters)
    found = attack.reconstruct([victim.observation], victim.knowledge, seed=0)
    assert found.labels.tolist() == victim.labels[order].tolist()
    assert found.images.shape == victim.images.shape
    return float(-10 * torch.log10((found.images - victim.images[order]).square().mean()))


def test_leakage_of_averaging_needs_no_order_where_agic_fails() -> None:
    plan = TrainingPlan(batch_size=2, local_epochs=3, learning_rate=0.05, mode="eval")
    victim = overhear_client([0, 1, 2], plan)
    assert quality(victim, "fedavg_leakage", iterations=120) > quality(victim, "agic", iterations=120) + 3


def test_the_steps_of_a_plan_must_be_known() -> None:
    victim = overhear_client([0, 1, 2], TrainingPlan(batch_size=2))
    with pytest.raises(FedsimError, match="no training plan was sent"):
        ATTACKS.create("fedavg_leakage").reconstruct([replace(victim.observation, plan=None)], victim.knowledge, seed=0)

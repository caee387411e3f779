"""The simulated update against the one a client really computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import Victim, clothes, gradient_of, overhear_gradient, overhear_model, state

from adversary import ATTACKS
from adversary.inversion import Candidate, Euclidean, Inversion, InversionProblem, SingleGradient, total_variation
from adversary.network import build, momentum_gain
from fedsim import models
from fedsim.protocol import TrainingPlan


def problem_of(attack: str, victim: Victim, **parameters: object) -> InversionProblem:
    made = ATTACKS.create(attack, **parameters)
    assert isinstance(made, Inversion)
    return made.problem([victim.observation], victim.knowledge, seed=0)


def at_truth(victim: Victim) -> Candidate:
    return Candidate(victim.knowledge.normalise(victim.images))


@pytest.mark.parametrize("model", ["cnn", "convnet"])
def test_the_objective_of_inverting_gradients_at_the_truth_is_its_prior(model: str) -> None:
    victim = overhear_gradient(*clothes([0, 1]), model=model, mean=0.3, std=0.35)
    problem = problem_of("inverting_gradients", victim, total_variation=0.05, labels="counts")
    # The rule gives labels in ascending order.
    order = victim.labels.argsort()
    candidate = Candidate(victim.knowledge.normalise(victim.images[order]))
    expected = 0.05 * total_variation(victim.images).item()
    assert problem.objective(candidate).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("factor", [1e-4, 0.1, 1e4])
def test_scaling_the_gradient_leaves_the_objective_of_inverting_gradients(factor: float) -> None:
    victim = overhear_gradient(*clothes([0]), model="cnn")
    scaled = {name: factor * g for name, g in victim.observation.received.items()}
    other = replace(victim, observation=replace(victim.observation, received=scaled))
    values = []
    for one in (victim, other):
        problem = problem_of("inverting_gradients", one, labels="bias_corrected")
        values.append(problem.objective(problem.start(0)).item())
    assert values[0] > 1e-3
    assert values[1] == pytest.approx(values[0], abs=1e-6)


def test_the_objective_of_dlg_at_the_truth_with_saturated_labels_is_zero() -> None:
    victim = overhear_gradient(*clothes([0, 1, 2]))
    problem = problem_of("dlg", victim)
    candidate = at_truth(victim)
    candidate.label_logits = 100 * torch.nn.functional.one_hot(victim.labels, 10).float()
    assert problem.objective(candidate).item() < 1e-8
    assert problem.objective(problem.start(0)).item() > 1e-2
    absolute = replace(problem, distance=Euclidean())
    assert absolute.objective(candidate).item() < 1e-8


def test_gradient_with_respect_to_the_inputs_is_that_of_finite_differences() -> None:
    images, labels = clothes([0])
    victim = overhear_gradient(images, labels, seed=1)
    double = {name: tensor.double() for name, tensor in victim.observation.sent.items()}
    received = {name: tensor.double() for name, tensor in victim.observation.received.items()}
    network = build(victim.knowledge, "eval", "cpu").double()
    observation = replace(victim.observation, sent=double, received=received)
    simulate = SingleGradient().bind(network, observation, victim.knowledge, "cpu")
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def objective(at: torch.Tensor) -> torch.Tensor:
        return Euclidean(relative=True)(simulate(at, labels), simulate.target)

    (gradient,) = torch.autograd.grad(objective(x), x)
    step = 1e-5
    numeric = (objective(x + step * direction) - objective(x - step * direction)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_local_step_is_read_as_the_gradient_itself(weight_decay: float, momentum: float) -> None:
    images, labels = clothes([0, 1, 2])
    plan = TrainingPlan(batch_size=None, learning_rate=0.05, momentum=momentum, weight_decay=weight_decay, mode="eval")
    victim = overhear_model(images, labels, plan)
    expected = gradient_of(victim.knowledge.model(), images, labels)
    simulate = SingleGradient().bind(
        build(victim.knowledge, "eval", "cpu"), victim.observation, victim.knowledge, "cpu"
    )
    for found, own, true in zip(simulate.target, simulate(images, labels), expected.values(), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-7)


def test_small_local_steps_are_read_as_nearly_one_gradient_and_the_error_grows_with_the_step() -> None:
    images, labels = clothes(list(range(8)))
    errors = []
    for rate in (0.04, 0.01):
        victim = overhear_model(
            images, labels, TrainingPlan(batch_size=4, local_epochs=3, learning_rate=rate, mode="eval")
        )
        network = build(victim.knowledge, "eval", "cpu")
        simulate = SingleGradient().bind(network, victim.observation, victim.knowledge, "cpu")
        errors.append(Euclidean(relative=True)(simulate(images, labels), simulate.target).item())
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 4


def test_momentum_gain_is_the_way_of_sgd_under_a_constant_gradient() -> None:
    for momentum in (0.0, 0.5, 0.9):
        x = torch.zeros(1, requires_grad=True)
        sgd = torch.optim.SGD([x], lr=1.0, momentum=momentum)
        for steps in range(1, 6):
            x.grad = torch.ones(1)
            sgd.step()
            assert -x.item() == pytest.approx(momentum_gain(momentum, steps))


def test_train_mode_uses_the_statistics_of_the_dummy_batch_and_changes_nothing_observed() -> None:
    images, labels = clothes([0, 1, 2, 3])
    plan = TrainingPlan(batch_size=None, learning_rate=0.05, mode="train")
    victim = overhear_model(images, labels, plan, model="convnet")
    before = {name: tensor.clone() for name, tensor in victim.observation.sent.items()}
    network = build(victim.knowledge, "train", "cpu")
    simulate = SingleGradient().bind(network, victim.observation, victim.knowledge, "cpu")
    own = state(network)
    first = simulate(images, labels)
    again = simulate(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(before[name], victim.observation.sent[name]) for name in before)
    assert all(torch.equal(own[name], tensor) for name, tensor in network.state_dict().items())
    reference = victim.knowledge.model().train()
    for found, true in zip(first, gradient_of(reference, images, labels).values(), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-6)


def test_observed_batch_norm_statistics_are_used_in_evaluation_mode() -> None:
    images, labels = clothes([0, 1])
    make = models.builder("convnet", (1, 28, 28), 10)
    network = make().train()
    network(clothes(list(range(32)))[0])  # moves the running statistics
    victim = overhear_gradient(images, labels, model="convnet", network=network.eval())
    problem = problem_of("inverting_gradients", victim, total_variation=0.0, labels="counts")
    order = victim.labels.argsort()
    assert problem.objective(Candidate(images[order])).item() < 1e-6


def test_dropout_is_off_in_both_modes() -> None:
    victim = overhear_gradient(*clothes([0]))

    def with_dropout() -> torch.nn.Module:
        return torch.nn.Sequential(victim.knowledge.model(), torch.nn.Dropout(0.5))

    network = build(replace(victim.knowledge, model=with_dropout), "train", "cpu")
    assert network.training
    assert not network[1].training  # type: ignore[index]

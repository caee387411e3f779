"""Simulated local training against that of real clients, and the approximations against their limits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from overheard import Victim, clothes, overhear_client, overhear_gradient, overhear_model
from torch import Tensor
from torch.nn import functional

from adversary import ATTACKS
from adversary.inversion import (
    Candidate,
    Cosine,
    Euclidean,
    Inversion,
    LearnedPath,
    PathGradient,
    PooledGradient,
    Searching,
    Simulation,
    Simulator,
    SingleGradient,
    Unrolled,
)
from adversary.inversion.simulators.path import mean_position
from adversary.network import build, mode_of
from fedsim.errors import FedsimError
from fedsim.protocol import Reconstruction, TrainingPlan
from fedsim.transcript import Transcript

PLAIN = TrainingPlan(batch_size=4, local_epochs=3, learning_rate=0.1, mode="eval")
DECAYING = replace(PLAIN, learning_rate_decay=0.5, weight_decay=0.3)
HEAVY = replace(PLAIN, learning_rate=0.03, momentum=0.9, weight_decay=0.1)
STEPS = replace(PLAIN, local_steps=5)
SHIRTS = list(range(10))  # so that the last batch of an epoch has two of its four


def bound(simulator: Simulator, victim: Victim, *, double: bool = False) -> Simulation:
    """The simulation of a victim, in double precision if asked."""
    observation = victim.observation
    network = build(victim.knowledge, mode_of(observation.plan), "cpu")
    if double:
        network = network.double()
        sent, received = (
            {name: tensor.double() for name, tensor in arrays.items()}
            for arrays in (observation.sent, observation.received)
        )
        observation = replace(observation, sent=sent, received=received)
    found = simulator.bind(network, observation, victim.knowledge, "cpu")
    assert not isinstance(found, Searching)
    return found


def at_truth(simulation: Simulation, victim: Victim) -> list[Tensor]:
    return simulation(victim.knowledge.normalise(victim.images), victim.labels)


def relative_error(simulated: list[Tensor], target: list[Tensor]) -> float:
    return Euclidean(relative=True)(simulated, target).item() ** 0.5


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


# The exact unrolling


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("plan", [PLAIN, DECAYING, HEAVY, STEPS], ids=["plain", "decay", "momentum", "steps"])
@pytest.mark.parametrize("model", ["cnn", "convnet"])
def test_the_true_images_in_the_true_order_cause_the_update_of_a_real_client(
    model: str, plan: TrainingPlan, mode: Any
) -> None:
    victim = overhear_client(SHIRTS, replace(plan, mode=mode), model=model, round=3)
    exact = bound(Unrolled("given"), victim)
    simulated = at_truth(exact, victim)
    error = relative_error(simulated, exact.target)
    assert error < 2e-3  # of the client's rounding: weights in single precision, and their small differences
    assert Cosine()(simulated, exact.target).item() < 1e-6
    guess = bound(Unrolled("shuffled"), victim)
    assert relative_error(at_truth(guess, victim), guess.target) > 5 * error


@pytest.mark.parametrize("plan", [PLAIN, HEAVY], ids=["plain", "momentum and decay"])
def test_in_double_precision_the_unrolling_is_exact_to_nine_digits(plan: TrainingPlan) -> None:
    """Against PyTorch's own SGD; the order is that of the images, the same in each epoch."""
    images, labels = clothes(SHIRTS)
    network = overhear_gradient(images, labels, model="cnn").knowledge.model().double()
    victim = overhear_model(images.double(), labels, plan, network=network)
    order = tuple(torch.arange(len(labels)).split(4)) * plan.local_epochs
    knowing = replace(victim, knowledge=replace(victim.knowledge, batch_order=order))
    exact = bound(Unrolled("given"), knowing, double=True)
    assert relative_error(at_truth(exact, knowing), exact.target) < 1e-9


@pytest.mark.parametrize("how", ["shuffled", "given", "pooled"])
def test_with_one_batch_an_epoch_no_order_is_needed(how: Any) -> None:
    victim = overhear_client([3, 5, 7], replace(HEAVY, batch_size=None, local_epochs=4))
    exact = bound(Unrolled(how), victim)
    assert relative_error(at_truth(exact, victim), exact.target) < 2e-3


def test_the_guessed_order_is_a_shuffle_of_each_epoch_that_the_seed_decides() -> None:
    victim = overhear_client(SHIRTS, PLAIN)
    order = [stretch.batch for stretch in bound(Unrolled(), victim).stretches]  # type: ignore[attr-defined]
    assert [len(batch) for batch in order] == [4, 4, 2] * 3
    epochs = [torch.cat(order[start : start + 3]) for start in (0, 3, 6)]
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    again, other = (bound(Unrolled(seed=seed), victim).stretches for seed in (0, 1))  # type: ignore[attr-defined]
    assert all(torch.equal(a, b.batch) for a, b in zip(order, again, strict=True))
    assert not all(torch.equal(a, b.batch) for a, b in zip(order, other, strict=True))


def test_pooled_steps_are_those_of_a_client_whose_gradient_stays_the_same() -> None:
    """A linear loss has one gradient everywhere; the pooled way of several steps is then the exact one."""
    plan = replace(HEAVY, weight_decay=0.0, batch_size=1, local_epochs=2)
    victim = overhear_client([0, 1, 2], plan)
    pooled = bound(Unrolled("pooled"), victim)
    constant = [torch.full_like(tensor, 0.5) for tensor in pooled.target]
    object.__setattr__(pooled, "_gradient", lambda *_: constant)
    found = pooled(victim.images, victim.labels)
    for one in found:  # the mean of a constant gradient is itself, through any number of heavy-ball steps
        torch.testing.assert_close(one, torch.full_like(one, 0.5))


@pytest.mark.parametrize("plan", [PLAIN, HEAVY], ids=["plain", "momentum and decay"])
def test_recomputing_gives_the_same_update_and_the_same_gradient(plan: TrainingPlan) -> None:
    victim = overhear_client(SHIRTS, plan)
    found = []
    for recompute in (False, True):
        simulate = bound(Unrolled("given", recompute=recompute), victim)
        x = torch.full_like(victim.images, 0.3).requires_grad_()
        loss = Cosine()(simulate(x, victim.labels), simulate.target)
        found.append((loss.item(), torch.autograd.grad(loss, x)[0]))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "simulator",
    [Unrolled("given"), Unrolled("pooled"), PooledGradient(order_known=True), PathGradient(0.3)],
    ids=["given", "pooled", "agic", "path"],
)
def test_gradients_through_the_simulators_are_those_of_finite_differences(simulator: Simulator) -> None:
    """In double precision, with a smooth network, momentum and weight decay."""
    victim = overhear_client([0, 1, 2], replace(HEAVY, batch_size=2, local_epochs=2), model="lenet")
    simulate = bound(simulator, victim, double=True)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 28, 28, generator=draws, dtype=torch.float64).requires_grad_()
    direction = torch.randn(x.shape, generator=draws, dtype=torch.float64)

    def objective(at: Tensor) -> Tensor:
        return Cosine()(simulate(at, victim.labels), simulate.target)

    (gradient,) = torch.autograd.grad(objective(x), x)
    step = 1e-4
    numeric = (objective(x + step * direction) - objective(x - step * direction)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5)


def test_what_is_not_known_is_said_in_a_sentence() -> None:
    victim = overhear_client(SHIRTS, PLAIN)
    for knowledge, words in (
        (replace(victim.knowledge, batch_order=None), "Grant 'batch_order'"),
        (replace(victim.knowledge, batch_order=victim.knowledge.batch_order[:4]), "4 batches, but the plan orders 9"),  # type: ignore[index]
        (replace(victim.knowledge, batch_order=(torch.tensor([11]),) * 9), "beyond the 10 examples"),
    ):
        with pytest.raises(FedsimError, match=words):
            bound(Unrolled("given"), replace(victim, knowledge=knowledge))
    foreign = replace(victim.observation, plan=None)
    with pytest.raises(FedsimError, match="no training plan was sent"):
        ATTACKS.create("simulation").reconstruct([foreign], victim.knowledge, seed=0)
    with pytest.raises(FedsimError, match="Set labels = 'given' too"):
        ATTACKS.create("simulation", batch_order="given")


# One local step


def same(a: Reconstruction, b: Reconstruction) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.history == b.history


@pytest.mark.parametrize("kind", ["model", "gradient"])
@pytest.mark.parametrize(("attack", "parameters"), [("agic", {"depth_gain": 1}), ("simulation", {})])
def test_with_one_local_step_it_is_inverting_gradients_bit_for_bit(
    attack: str, parameters: dict[str, Any], kind: str
) -> None:
    """Also with momentum, which a first step does not have, and weight decay, which is known."""
    if kind == "model":
        plan = replace(HEAVY, batch_size=None, local_epochs=1)
        victim = overhear_client([4, 5, 6], plan)
    else:
        victim = overhear_gradient(*clothes([4, 5, 6]), model="cnn")
    found, reference = (
        ATTACKS.create(name, iterations=25, **given).reconstruct([victim.observation], victim.knowledge, seed=3)
        for name, given in ((attack, parameters), ("inverting_gradients", {}))
    )
    assert same(found, reference)
    weighted = ATTACKS.create("agic", iterations=25).reconstruct([victim.observation], victim.knowledge, seed=3)
    assert not torch.equal(weighted.images, reference.images)


@pytest.mark.parametrize("attack", ["agic", "simulation", "sme"])
def test_what_was_written_down_is_attacked_as_what_was_heard(attack: str, tmp_path: Path) -> None:
    victim = overhear_client(SHIRTS, HEAVY, model="convnet", round=2)
    transcript = Transcript.create(tmp_path / "transcript")
    transcript.append(victim.observation)
    (read,) = Transcript.open(tmp_path / "transcript")
    live, later = (
        ATTACKS.create(attack, iterations=4).reconstruct([seen], victim.knowledge, seed=5)
        for seen in (victim.observation, read)
    )
    assert same(live, later)


# AGIC's approximation


def test_as_the_learning_rate_falls_the_update_becomes_agics_gradient() -> None:
    """On a smooth network ``1 - cos`` is of second order in the learning rate: halving that divides it by 4.

    With ReLU it falls more slowly, since the units that switch during training are of first order; but it falls.
    """

    def gap(activation: str, rate: float) -> float:
        plan = replace(PLAIN, local_epochs=5, learning_rate=rate)
        victim = overhear_client(list(range(16)), plan, activation=activation)
        agic = bound(PooledGradient(), victim)
        return Cosine()(at_truth(agic, victim), agic.target).item()

    rates = [0.02, 0.01, 0.005, 0.0025, 0.00125]
    smooth, kinked = ([gap(activation, rate) for rate in rates] for activation in ("gelu", "relu"))
    assert all(3.8 < before / after < 4.2 for before, after in pairwise(smooth))
    assert smooth[-1] < 1e-4
    assert all(before / after > 1.8 for before, after in pairwise(kinked))
    assert kinked[-1] < 0.005


def test_a_known_order_weighs_examples_of_smaller_batches_more() -> None:
    """8 examples in batches of 5 and 3: with a tiny step the weighted gradient is the update, the mean is not."""
    plan = replace(PLAIN, batch_size=5, local_epochs=1, learning_rate=1e-3)
    victim = overhear_client(list(range(8)), plan, activation="gelu")
    weighted, alike = (bound(PooledGradient(order_known=known), victim) for known in (True, False))
    errors = [relative_error(at_truth(one, victim), one.target) for one in (weighted, alike)]
    assert errors[0] < 0.002
    assert errors[1] > 0.1
    whole = replace(victim, observation=replace(victim.observation, plan=replace(plan, batch_size=4)))
    even = replace(whole, knowledge=replace(victim.knowledge, batch_order=tuple(torch.arange(8).split(4))))
    found, expected = (at_truth(bound(PooledGradient(order_known=known), even), even) for known in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_pooled_steps_of_one_epoch_are_agics_gradient() -> None:
    """Dimitrov et al.'s ``none_epoch`` with one epoch is their ``none``."""
    victim = overhear_client(SHIRTS, replace(PLAIN, local_epochs=1))
    agic, pooled = (at_truth(bound(one, victim), victim) for one in (PooledGradient(), Unrolled("pooled")))
    torch.testing.assert_close(flat(agic), flat(pooled), rtol=1e-5, atol=1e-8)


def test_the_better_the_simulation_the_nearer_is_the_truth_to_the_update() -> None:
    victim = overhear_client(SHIRTS, replace(PLAIN, batch_size=5, learning_rate=0.05))
    gaps = [
        relative_error(at_truth(simulate, victim), simulate.target)
        for simulate in (bound(s, victim) for s in (Unrolled("given"), Unrolled("pooled"), PooledGradient()))
    ]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.1 * gaps[1]
    assert gaps[1] < 0.7 * gaps[2]


# The path between the weights


def test_at_its_start_the_path_is_the_single_gradient() -> None:
    victim = overhear_client(SHIRTS, PLAIN)
    for simulator in (PathGradient(0.0), LearnedPath(start=0.0)):
        network = build(victim.knowledge, "eval", "cpu")
        simulate: Any = simulator.bind(network, victim.observation, victim.knowledge, "cpu")
        simulate = simulate.at(simulate.start()) if isinstance(simulate, Searching) else simulate
        single = at_truth(bound(SingleGradient(), victim), victim)
        assert all(torch.equal(a, b) for a, b in zip(at_truth(simulate, victim), single, strict=True))


def test_the_best_point_lies_inside_the_path_and_the_mean_position_is_near_it() -> None:
    plan = replace(PLAIN, batch_size=None, local_epochs=10, learning_rate=0.02)
    victim = overhear_client(list(range(16)), plan, activation="gelu")
    gaps = {}
    for at in [point / 10 for point in range(11)]:
        simulate = bound(PathGradient(at), victim)
        gaps[at] = Cosine()(at_truth(simulate, victim), simulate.target).item()
    best = min(gaps, key=gaps.__getitem__)
    assert 0.2 <= best <= 0.8
    assert gaps[best] < 0.1 * gaps[0.0]
    assert abs(mean_position(victim.observation) - best) <= 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_mean_position_is_that_of_a_client_with_a_constant_gradient(momentum: float) -> None:
    """By going the way: where each gradient was taken, weighted by how often it went into the update."""
    plan = TrainingPlan(batch_size=None, local_steps=6, momentum=momentum)
    observation = replace(overhear_gradient(*clothes([0])).observation, kind="model", plan=plan)
    position, total, weighted = 0.0, 0.0, 0.0
    pushes = [sum(momentum**k for k in range(6 - j)) for j in range(6)]  # of the j-th gradient on the final weights
    velocity = 0.0
    for push in pushes:
        weighted += push * position
        total += push
        velocity = momentum * velocity + 1
        position += velocity
    assert mean_position(observation) == pytest.approx(weighted / total / position)
    if momentum == 0:
        assert mean_position(observation) == pytest.approx(5 / 12)


def test_the_gradient_with_respect_to_the_learned_point_is_the_papers_formula() -> None:
    """``dJ/da = sum_i <dJ/dw_a, w^tau - w^0>``, and that of finite differences."""
    victim = overhear_client([0, 1, 2], replace(HEAVY, batch_size=2), model="lenet")
    double = {
        side: {name: tensor.double() for name, tensor in getattr(victim.observation, side).items()}
        for side in ("sent", "received")
    }
    network = build(victim.knowledge, "eval", "cpu").double()
    simulate = LearnedPath(start=0.4, step=0.5).bind(
        network, replace(victim.observation, **double), victim.knowledge, "cpu"
    )
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unknown = simulate.start().double().requires_grad_()

    def objective(unknown: Tensor) -> tuple[Tensor, Any]:
        here = simulate.at(unknown)
        return Cosine()(here(x, victim.labels), here.target), here

    loss, here = objective(unknown)
    points = list(here.weights.parameters.values())
    found, *at_weights = torch.autograd.grad(loss, [unknown, *points])
    formula = sum((g * way).sum() for g, way in zip(at_weights, simulate.way, strict=True))
    assert found.item() == pytest.approx(0.5 * formula.item(), rel=1e-9)  # da = step * d unknown
    with torch.no_grad():
        shift = torch.tensor(1e-4, dtype=torch.float64)
    numeric = (objective(unknown + shift)[0] - objective(unknown - shift)[0]).item() / 2e-4
    assert found.item() == pytest.approx(numeric, rel=1e-5)


def test_the_learned_point_moves_from_a_bad_start_to_where_the_truth_fits() -> None:
    """With the true images held, the search for the point alone."""
    victim = overhear_client(list(range(16)), replace(PLAIN, batch_size=None, local_epochs=10, learning_rate=0.02))
    attack = ATTACKS.create("sme", iterations=150, start=0.95, position_rate=0.01, learning_rate=0.01, labels="given")
    assert isinstance(attack, Inversion)
    problem = attack.problem([victim.observation], victim.knowledge, seed=0)

    class PointAlone:
        def start(self, attempt: int) -> Candidate:
            return Candidate(torch.zeros((), requires_grad=True), unknowns=problem.start(attempt).unknowns)

        def objective(self, candidate: Candidate) -> Tensor:
            truth = victim.knowledge.normalise(victim.images)
            return problem.objective(Candidate(truth, unknowns=candidate.unknowns)) + 0 * candidate.inputs

        def project(self, candidate: Candidate) -> None:
            problem.simulations[0].project(candidate.unknowns[0])  # type: ignore[union-attr]

    solution = attack.solver.solve(PointAlone(), attack.optimiser)
    assert solution.candidate is not None
    position = problem.simulations[0].position(solution.candidate.unknowns[0]).item()  # type: ignore[union-attr]
    assert 0.2 < position < 0.8
    assert solution.loss < 0.5 * solution.history[0]


def test_the_learned_point_stays_on_the_path() -> None:
    victim = overhear_client([0, 1], replace(PLAIN, batch_size=None))
    simulate = LearnedPath(start=0.5, step=0.01).bind(
        build(victim.knowledge, "eval", "cpu"), victim.observation, victim.knowledge, "cpu"
    )
    for value, expected in ((1e6, 1.0), (-1e6, 0.0)):
        unknown = torch.tensor(value)
        assert simulate.position(unknown).item() == expected
        simulate.project(unknown)
        assert simulate.position(unknown).item() == pytest.approx(expected)
        assert unknown.item() == pytest.approx(50.0 if expected else -50.0)


# Whole attacks on real images


def colours(images: Tensor) -> Tensor:
    """Each image's mean, the best that a flat picture can do."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def test_simulation_beats_the_approximations_where_the_learning_rate_is_large() -> None:
    victim = overhear_client([0, 1], replace(PLAIN, batch_size=None, local_epochs=4, learning_rate=0.05))
    order = victim.labels.argsort()
    truth = victim.images[order]

    def quality(name: str, **parameters: Any) -> float:
        attack = ATTACKS.create(name, iterations=250, **parameters)
        found = attack.reconstruct([victim.observation], victim.knowledge, seed=0)
        assert found.labels.tolist() == victim.labels[order].tolist()
        mse = functional.mse_loss(found.images, truth)
        return float(-10 * torch.log10(mse))

    grey = float(-10 * torch.log10(functional.mse_loss(colours(truth), truth)))
    unrolled, surrogate, one = quality("simulation"), quality("sme"), quality("agic", depth_gain=1)
    assert one > grey + 2
    assert surrogate > one + 4
    assert unrolled > surrogate + 4

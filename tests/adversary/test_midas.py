"""The defect correction: its fixed point, its limits, and what it reaches on real clients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import Victim, clothes, overhear_client, overhear_model, psnr

from adversary import ATTACKS
from adversary.inversion import Corrected, Cosine, PathGradient, SingleGradient, Unrolled
from adversary.inversion.simulators.corrected import BoundCorrected
from adversary.network import build, mode_of
from fedsim.errors import FedsimError
from fedsim.protocol import TrainingPlan

LARGE_STEPS = TrainingPlan(batch_size=None, local_epochs=6, learning_rate=0.1, mode="eval")


def corrected(victim: Victim, **parts: object) -> BoundCorrected:
    network = build(victim.knowledge, mode_of(victim.observation.plan), "cpu")
    found = replace(Corrected(), **parts).bind(network, victim.observation, victim.knowledge, "cpu")
    assert isinstance(found, BoundCorrected)
    return found


@pytest.mark.parametrize("order", ["pooled", "given"])
def test_the_truth_is_where_the_corrected_search_rests(order: str) -> None:
    """However bad the approximation is: the gradient at the weights sent, over six large steps."""
    plan = LARGE_STEPS if order == "pooled" else replace(LARGE_STEPS, batch_size=2)
    victim = overhear_client([3, 4, 5, 6], plan)
    found = corrected(victim, exact=Unrolled(order), approximate=PathGradient(at=0.0))  # type: ignore[arg-type]
    inputs, labels = victim.knowledge.normalise(victim.images), victim.labels
    assert Cosine()(found(inputs, labels), found.target).item() > 1e-3
    found.renew(inputs, labels, 0)
    assert Cosine()(found(inputs, labels), found.target).item() < 1e-9
    truth = torch.cat([t.flatten() for t in found.target])
    for elsewhere in (inputs + 0.3, inputs.flip(3)):
        found.renew(elsewhere, labels, 0)
        assert (torch.cat([t.flatten() for t in found.target]) - truth).norm() > 1e-3 * truth.norm()


def test_the_target_is_renewed_when_it_is_time() -> None:
    victim = overhear_client([3, 4], LARGE_STEPS)
    found = corrected(victim, every=10)
    inputs = torch.zeros(2, *victim.knowledge.input_shape)
    seen = []
    for iteration in range(25):
        found.renew(inputs + 0.01 * iteration, victim.labels, iteration)
        seen.append(found.target)
    assert [i for i in range(1, 25) if seen[i] is not seen[i - 1]] == [10, 20]
    found.renew(inputs, victim.labels, 0)  # a new search begins
    assert all(a.equal(b) for a, b in zip(found.target, seen[0], strict=True))


def test_one_local_step_is_a_single_gradient() -> None:
    images, labels = clothes([3])
    victim = overhear_model(images, labels, TrainingPlan(batch_size=None, learning_rate=0.01, mode="eval"))
    network = build(victim.knowledge, "eval", "cpu")
    found = Corrected().bind(network, victim.observation, victim.knowledge, "cpu")
    assert type(found) is type(SingleGradient().bind(network, victim.observation, victim.knowledge, "cpu"))
    attacks = [ATTACKS.create(name, iterations=20) for name in ("midas", "inverting_gradients")]
    first, second = (a.reconstruct([victim.observation], victim.knowledge, seed=0) for a in attacks)
    assert first.images.equal(second.images)
    assert first.history == second.history


@pytest.mark.parametrize("positions", [[1, 0], [5, 4]])
def test_better_than_one_gradient_where_local_steps_are_large(positions: list[int]) -> None:
    """At the weights sent, or at a learned point of the way, one gradient is the wrong equation."""
    victim = overhear_client(positions, LARGE_STEPS, activation="gelu")  # their labels ascend, as recovered ones do
    found = {
        name: psnr(
            ATTACKS.create(name, iterations=150).reconstruct([victim.observation], victim.knowledge, seed=0).images,
            victim.images,
        )
        for name in ("agic", "sme", "midas")
    }
    assert found["midas"] > max(found["agic"], found["sme"]) + 4


def test_restarts_begin_with_a_target_of_their_own() -> None:
    victim = overhear_client([3, 4], LARGE_STEPS)
    one, two = (
        ATTACKS.create("midas", iterations=30, restarts=count).reconstruct(
            [victim.observation], victim.knowledge, seed=0
        )
        for count in (1, 2)
    )
    assert two.iterations == 60
    assert two.loss <= one.loss


@pytest.mark.parametrize(
    ("parameters", "word"), [({"correct_every": 0}, "correct_every = 0"), ({"batch_order": "given"}, "labels")]
)
def test_what_cannot_be_is_refused(parameters: dict[str, object], word: str) -> None:
    with pytest.raises(FedsimError, match=word):
        ATTACKS.create("midas", **parameters)

"""Attacks on the gradient of a diffusion loss: what must be granted, and what the attacks on classifiers make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import Victim, clothes, overhear_denoising, psnr
from torch.nn import functional

from adversary import ATTACKS, check
from adversary.inversion import Candidate, Inversion, reconstruct_many
from adversary.inversion import Victim as Batched
from fedsim.errors import FedsimError
from fedsim.tasks import Occasion
from fedsim.tasks.classification import Classification
from fedsim.tasks.diffusion import Diffusion

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TASK = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4)


def small(positions: list[int], side: int = 8) -> torch.Tensor:
    return functional.interpolate(clothes(positions)[0], (side, side), mode="area")


def victim(t: int, *, task: Diffusion = TASK, positions: tuple[int, ...] = (0,)) -> Victim:
    images = small(list(positions))
    drawn = task.draws(Occasion(3, 0, 1), tuple(images.shape))
    return overhear_denoising(images, task, drawn._replace(steps=torch.full((len(images),), t)))


def test_the_truth_matches_the_gradient_at_every_step_of_the_schedule() -> None:
    attack = ATTACKS.create("dlg")
    assert isinstance(attack, Inversion)
    for t in range(16):
        seen = victim(t)
        problem = attack.problem([seen.observation], seen.knowledge, seed=0)
        true = Candidate((seen.images * 2 - 1).requires_grad_())
        assert problem.objective(true).item() < 1e-8
        assert problem.objective(problem.start(0)).item() > 1e-3


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_attacks_on_classifiers_work_on_noise_too_and_know_no_labels(prediction: str) -> None:
    seen = victim(7, task=replace(TASK, prediction=prediction))  # type: ignore[arg-type]
    for name, given in (("dlg", {"iterations": 400}), ("inverting_gradients", {"iterations": 500})):
        found = ATTACKS.create(name, **given).reconstruct([seen.observation], seen.knowledge, seed=0)
        assert psnr(found.images, seen.images) > 30
        assert found.labels.tolist() == [-1]


def test_a_batch_comes_back_in_the_order_of_its_noise() -> None:
    seen = victim(7, positions=(0, 1))
    found = ATTACKS.create("dlg", iterations=600).reconstruct([seen.observation], seen.knowledge, seed=0)
    assert psnr(found.images, seen.images) > 30


def test_what_was_drawn_must_be_granted_and_a_wrong_guess_does_not_do() -> None:
    seen = victim(7)
    attack = ATTACKS.create("dlg", iterations=200, restarts=1)
    for field in ("noise", "steps"):
        with pytest.raises(FedsimError, match=f"know the {field}, which the threat model withholds"):
            check(attack, [seen.observation], replace(seen.knowledge, **{field: None}))
    other = replace(seen.knowledge, noise=torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert attack.reconstruct([seen.observation], other, seed=0).loss > 1e-3
    assert attack.reconstruct([seen.observation], seen.knowledge, seed=0).loss < 1e-4


def test_draws_of_another_batch_or_another_task_are_refused() -> None:
    seen = victim(7)
    attack = ATTACKS.create("dlg")
    with pytest.raises(FedsimError, match=r"Knowledge.steps is of 2 examples, but the victim used 1"):
        check(attack, [seen.observation], replace(seen.knowledge, steps=torch.tensor([7, 7])))
    with pytest.raises(FedsimError, match=r"Knowledge.task has the loss 'cross_entropy'"):
        check(attack, [seen.observation], replace(seen.knowledge, task=Classification()))
    with pytest.raises(FedsimError, match="one observation, but 2 were given"):
        check(attack, [seen.observation, seen.observation], seen.knowledge)


def test_an_update_of_several_steps_is_refused_and_of_one_is_not() -> None:
    """What was drawn is granted of one step alone."""
    seen = victim(7)
    assert seen.observation.plan is not None
    plan = replace(seen.observation.plan, algorithm="fedavg", local_steps=1, learning_rate=0.5)
    sent = seen.observation.sent
    left = {name: tensor - 0.5 * seen.observation.received[name] for name, tensor in sent.items()}
    model = replace(seen.observation, kind="model", received=left, plan=plan)
    attack = ATTACKS.create("inverting_gradients", iterations=500)
    assert psnr(attack.reconstruct([model], seen.knowledge, seed=0).images, seen.images) > 25
    with pytest.raises(FedsimError, match="plan orders 2"):
        check(attack, [replace(model, plan=replace(plan, local_steps=2))], seen.knowledge)


def test_victims_given_together_have_their_own_noise() -> None:
    seen = [victim(3), victim(11)]
    attack = ATTACKS.create("inverting_gradients", iterations=30)
    together = reconstruct_many(attack, [Batched([one.observation], one.knowledge, 0) for one in seen])
    for one, found in zip(seen, together, strict=True):
        alone = attack.reconstruct([one.observation], one.knowledge, seed=0)
        assert torch.equal(found.images, alone.images)

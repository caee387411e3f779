"""The published attacks on real images, and what must hold whatever they find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import clothes, overhear_gradient, overhear_model, psnr

from adversary import ATTACKS
from adversary.campaign import Campaign
from fedsim.protocol import Reconstruction, TrainingPlan


def same(a: Reconstruction, b: Reconstruction) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.history == b.history


def test_dlg_reconstructs_a_real_image_and_its_label() -> None:
    victim = overhear_gradient(*clothes([2]), seed=5)
    found = ATTACKS.create("dlg", iterations=1_200).reconstruct([victim.observation], victim.knowledge, seed=0)
    assert psnr(found.images, victim.images) > 30
    assert found.labels.tolist() == victim.labels.tolist()
    assert found.loss == min(found.history)


def test_idlg_reconstructs_a_real_image_from_the_label_it_read() -> None:
    victim = overhear_gradient(*clothes([1]), seed=4)
    found = ATTACKS.create("idlg", iterations=1_200).reconstruct([victim.observation], victim.knowledge, seed=0)
    assert psnr(found.images, victim.images) > 30
    assert found.labels.tolist() == victim.labels.tolist()


def test_dlg_reads_one_local_step_as_well_as_a_gradient() -> None:
    images, labels = clothes([0])
    plan = TrainingPlan(batch_size=None, learning_rate=0.1, mode="eval")
    victim = overhear_model(images, labels, plan, model="lenet")
    found = ATTACKS.create("idlg", iterations=1_200).reconstruct([victim.observation], victim.knowledge, seed=0)
    assert psnr(found.images, images) > 30


@pytest.mark.parametrize("multi_step", [False, True], ids=["gradient", "four local steps"])
def test_inverting_gradients_goes_far_beyond_a_grey_guess_on_a_relu_network(multi_step: bool) -> None:
    images, labels = clothes([2, 3])
    if multi_step:
        plan = TrainingPlan(batch_size=1, local_epochs=2, learning_rate=0.005, mode="eval")
        victim = overhear_model(images, labels, plan)
    else:
        victim = overhear_gradient(images, labels, model="cnn")
    attack = ATTACKS.create("inverting_gradients", iterations=400)
    found = attack.reconstruct([victim.observation], victim.knowledge, seed=0)
    assert found.labels.tolist() == labels.sort().values.tolist()
    ordered = images[labels.argsort()]
    # The mean colour of each image is the best that a flat picture can do.
    flat = ordered.mean(dim=(2, 3), keepdim=True).expand_as(ordered)
    assert psnr(found.images, ordered) > psnr(flat, ordered) + (3 if multi_step else 5)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


ATTACKS_AND_PARAMETERS = [
    ("dlg", {"iterations": 60, "restarts": 1}),
    ("idlg", {"iterations": 60, "restarts": 2}),
    ("inverting_gradients", {"iterations": 30, "restarts": 2}),
]


@pytest.mark.parametrize(("name", "parameters"), ATTACKS_AND_PARAMETERS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: str, parameters: dict[str, int]) -> None:
    victim = overhear_gradient(*clothes([0]), seed=5)
    attack = ATTACKS.create(name, **parameters)
    first, again, other = (attack.reconstruct([victim.observation], victim.knowledge, seed=seed) for seed in (7, 7, 8))
    assert same(first, again)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(("name", "parameters"), ATTACKS_AND_PARAMETERS)
def test_the_truth_has_no_way_into_a_reconstruction(name: str, parameters: dict[str, int]) -> None:
    """Labels that lie about in the knowledge but are not asked for, right or wrong, change nothing."""
    victim = overhear_gradient(*clothes([0]), seed=5)
    attack = ATTACKS.create(name, **parameters)
    assert not attack.needs.grants
    reference = attack.reconstruct([victim.observation], victim.knowledge, seed=7)
    victim.images.zero_()
    for labels in (victim.labels, (victim.labels + 1) % 10):
        knowing = replace(victim.knowledge, labels=labels, batch_order=(torch.tensor([0]),))
        assert same(attack.reconstruct([victim.observation], knowing, seed=7), reference)


@pytest.mark.parametrize(("name", "parameters"), ATTACKS_AND_PARAMETERS)
def test_attacks_leave_observations_and_the_global_generator_alone(name: str, parameters: dict[str, int]) -> None:
    victim = overhear_gradient(*clothes([0]), seed=5)
    sent = {key: tensor.clone() for key, tensor in victim.observation.sent.items()}
    received = {key: tensor.clone() for key, tensor in victim.observation.received.items()}
    before = torch.get_rng_state()
    ATTACKS.create(name, **parameters).reconstruct([victim.observation], victim.knowledge, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(sent[key], victim.observation.sent[key]) for key in sent)
    assert all(torch.equal(received[key], victim.observation.received[key]) for key in received)


def test_a_gradient_of_nan_counts_as_a_grey_guess_and_is_declared() -> None:
    victim = overhear_gradient(*clothes([0]), seed=5)
    broken = replace(victim.observation, received={k: g * torch.nan for k, g in victim.observation.received.items()})
    for name, parameters in ATTACKS_AND_PARAMETERS:
        campaign = Campaign(ATTACKS.create(name, **parameters), label=name)
        found = campaign.run(broken, victim.knowledge, seed=0)
        assert found.stopped_by == "diverged"
        assert torch.equal(found.images, torch.full_like(found.images, 0.5))
        assert found.loss != found.loss
        assert len(found.labels) == 1


def test_several_observations_of_one_victim_are_averaged() -> None:
    """The same observation twice has the objective of one."""
    victim = overhear_gradient(*clothes([0]), model="cnn")
    attack = ATTACKS.create("inverting_gradients")
    one = attack.problem([victim.observation], victim.knowledge, seed=0)  # type: ignore[attr-defined]
    two = attack.problem([victim.observation] * 2, victim.knowledge, seed=0)  # type: ignore[attr-defined]
    assert two.objective(two.start(0)).item() == pytest.approx(one.objective(one.start(0)).item(), rel=1e-6)

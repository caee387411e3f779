"""Attacks on networks that are told classes: labels are read or granted, and images are found by either."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import Victim, clothes, overhear_denoising, psnr
from torch.nn import functional

from adversary import ATTACKS, check
from adversary.diffusion.prior import generator
from adversary.inversion import Candidate, Inversion
from fedsim.errors import FedsimError
from fedsim.tasks import Occasion
from fedsim.tasks.diffusion import Diffusion

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TASK = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4, conditional=True)


def victim(labels: list[int], steps: list[int]) -> Victim:
    images = functional.interpolate(clothes(list(range(len(labels))))[0], (8, 8), mode="area")
    drawn = TASK.draws(Occasion(3, 0, 1), tuple(images.shape))
    return overhear_denoising(images, TASK, drawn._replace(steps=torch.tensor(steps)), labels=torch.tensor(labels))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("dlg", {"iterations": 400}),
        ("inverting_gradients", {"iterations": 500}),
        ("gidm", {"latent_iterations": 5, "iterations": 400, "optimiser": "lbfgs"}),
    ],
)
def test_the_label_is_read_and_the_image_found(name: str, given: dict[str, object]) -> None:
    seen = victim([6], [7])
    found = ATTACKS.create(name, **given).reconstruct([seen.observation], seen.knowledge, seed=0)
    assert found.labels.tolist() == [6]
    assert psnr(found.images, seen.images) > 30


def test_the_truth_explains_a_batch_whose_labels_were_read_and_no_other_labels_do() -> None:
    seen = victim([4, 1, 4], [12, 2, 7])
    attack = ATTACKS.create("dlg")
    assert isinstance(attack, Inversion)
    truth = Candidate((seen.images * 2 - 1).requires_grad_())
    assert attack.problem([seen.observation], seen.knowledge, seed=0).objective(truth).item() < 1e-8
    told = replace(seen.knowledge, labels=torch.tensor([1, 4, 4]))
    assert attack.problem([seen.observation], told, seed=0).objective(truth).item() > 1e-3


def test_labels_granted_are_taken_and_of_another_number_refused() -> None:
    seen = victim([6], [7])
    attack = ATTACKS.create("dlg", iterations=200, restarts=1)
    wrong = replace(seen.knowledge, labels=torch.tensor([2]))
    found = attack.reconstruct([seen.observation], wrong, seed=0)
    assert found.labels.tolist() == [2]
    assert found.loss > 1e-3
    with pytest.raises(FedsimError, match=r"Knowledge.labels has 2 entries"):
        check(attack, [seen.observation], replace(seen.knowledge, labels=torch.tensor([2, 2])))


def test_a_prior_makes_images_of_the_labels() -> None:
    seen = victim([6], [7])
    z = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [
        generator(seen.observation.sent, seen.knowledge, 4, "cpu", labels=torch.tensor([label]))(z)
        for label in (6, 6, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2], atol=1e-3)


def test_several_draws_of_a_batch_made_at_once_are_of_the_labels_each_has_alone() -> None:
    seen = victim([6, 2], [7, 3])
    make = generator(seen.observation.sent, seen.knowledge, 4, "cpu", labels=torch.tensor([6, 2]))
    draws = torch.randn(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make(draws.flatten(0, 1)), torch.cat([make(draw) for draw in draws]))

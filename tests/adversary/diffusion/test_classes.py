"""Labels of conditional diffusion networks, read from the gradient of their class embedding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from adversary.diffusion.classes import read_classes, unreadable
from fedsim.errors import FedsimError
from fedsim.tasks import Draws
from fedsim.tasks.diffusion import Diffusion

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TASK = Diffusion(schedule={"name": "cosine", "steps": 1000}, prediction="v", weighted=False, conditional=True)


def network(seed: int = 0) -> nn.Module:
    return TASK.build("unet", (1, 8, 8), 10, {"widths": (16, 16), "attention": False}, seed=seed)


def gradients(
    net: nn.Module, labels: list[int], t: list[int], seed: int = 0, task: Diffusion = TASK
) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(len(t), 1, 8, 8, generator=source) * 2 - 1
    drawn = Draws(torch.randn(images.shape, generator=source), torch.tensor(t))
    posed, targets = task.posed(images, torch.tensor(labels), drawn)
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(task.loss(net(posed), targets), parameters)
    return dict(zip(names, found, strict=True))


def read(net: nn.Module, found: dict[str, Tensor], steps: list[int] | int) -> list[int]:
    count, known = (steps, None) if isinstance(steps, int) else (len(steps), torch.tensor(steps))
    return read_classes(net, dict(net.named_parameters()), found, count, known).tolist()


@pytest.mark.parametrize("label", range(10))
def test_the_label_of_one_example_is_read_at_any_step(label: int) -> None:
    net = network(seed=label)
    for t in (0, 370, 999):
        found = gradients(net, [label], [t], seed=t)
        assert read(net, found, [t]) == [label]
        assert read(net, found, 1) == [label]


def test_labels_of_a_batch_are_read_in_the_order_of_its_steps_and_as_often_as_they_are_there() -> None:
    """The rows alone say neither: of eight examples, three of one class, four rows have a gradient."""
    net = network()
    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        t = (torch.arange(8) * 120 + torch.randint(100, (8,), generator=draws)).tolist()
        labels = torch.tensor([3, 3, 3, 7, 7, 0, 0, 9])[torch.randperm(8, generator=draws)].tolist()
        assert read(net, gradients(net, labels, t, seed), t) == labels


def test_without_steps_the_classes_are_read_and_are_all_there_is_where_each_is_there_once() -> None:
    net = network()
    assert read(net, gradients(net, [5, 2, 8], [900, 20, 400]), 3) == [2, 5, 8]
    assert set(read(net, gradients(net, [5, 5, 8], [900, 20, 400]), 3)) == {5, 8}


def test_examples_of_one_step_have_the_classes_that_the_others_do_not_explain() -> None:
    net = network()
    found = read(net, gradients(net, [6, 1, 4], [500, 30, 500]), [500, 30, 500])
    assert found[1] == 1
    assert {found[0], found[2]} == {6, 4}
    assert read(net, gradients(net, [6, 1, 6], [500, 30, 500]), [500, 30, 500]) == [6, 1, 6]


def test_scale_and_what_rounding_leaves_in_other_rows_change_nothing() -> None:
    net, t = network(), [10, 300, 700]
    found = gradients(net, [4, 4, 2], t)
    scaled = {name: 1e-3 * tensor for name, tensor in found.items()}
    assert read(net, scaled, t) == [4, 4, 2]
    key = "network.unet.class_embedding.weight"
    noise = torch.randn(found[key].shape, generator=torch.Generator().manual_seed(1))
    assert read(net, found | {key: found[key] + 3e-8 * found[key].norm() * noise}, t) == [4, 4, 2]


def test_what_cannot_be_read_is_said() -> None:
    plain = replace(TASK, conditional=False).build("unet", (1, 8, 8), 10, {"widths": (16, 16)}, seed=0)
    assert unreadable(network()) == []
    assert "grant 'labels'" in unreadable(plain)[0]
    with pytest.raises(FedsimError, match="class_embedding"):
        read(plain, {}, 1)
    key = "network.unet.class_embedding.weight"
    with pytest.raises(FedsimError, match=f"'{key}' is absent"):
        read(network(), {}, 1)
    with pytest.raises(FedsimError, match="is zero"):
        read(network(), {key: torch.zeros(10, 64)}, 1)


def test_an_example_that_hardly_weighs_is_read_too() -> None:
    """At its last step the sigmoid schedule weighs v-prediction by 2e-5."""
    weighted = Diffusion(schedule={"name": "sigmoid", "steps": 16}, prediction="v", sampling_steps=4, conditional=True)
    net = network()
    assert read(net, gradients(net, [7, 2, 3], [10, 15, 11], task=weighted), [10, 15, 11]) == [7, 2, 3]

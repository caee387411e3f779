"""Diffusion networks that are told classes: what they are fed, that it matters, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.defences.dp_sgd import clipped_sum
from fedsim.data import load
from fedsim.diffusion import UNet
from fedsim.errors import FedsimError
from fedsim.tasks import Occasion
from fedsim.tasks.diffusion import Diffusion, Stepped

pytest.importorskip("diffusers", reason="NOT TESTED: diffusion networks. Run: pip install fedsim[diffusion]")

SHAPE = (1, 8, 8)
TASK = Diffusion(schedule={"name": "cosine", "steps": 50}, prediction="v", weighted=False, sampling_steps=10,
                 conditional=True)  # fmt: skip
PARAMETERS: dict[str, object] = {"widths": (8, 16), "attention": False}
BAGS, TROUSERS = 8, 1


def build(task: Diffusion = TASK, classes: int = 3) -> nn.Module:
    return task.build("unet", SHAPE, classes, PARAMETERS, seed=0)


def batch(count: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.rand(count, *SHAPE, generator=draws) * 2 - 1, torch.arange(count) % 3


def shrunk(images: Tensor) -> Tensor:
    return functional.interpolate(images.float() / 255, SHAPE[1:], mode="area")


def test_a_posed_batch_says_image_step_and_class_and_has_the_loss_of_the_objective() -> None:
    images, labels = batch(6)
    network = build()
    assert isinstance(network, Stepped)
    assert isinstance(network.network, UNet)
    occasion = Occasion(7, 3, 2, 1)
    posed, targets = TASK.pose(images, labels, occasion)
    assert posed.shape == (6, 3, 8, 8)
    noise, t = TASK.draws(occasion, tuple(images.shape))
    assert noise is not None
    assert t is not None
    inner = network.network
    expected = TASK.goal(lambda x, s: inner(x, s, labels), images, noise, t)
    assert torch.equal(TASK.loss(network(posed), targets), expected)
    other = TASK.loss(network(TASK.pose(images, (labels + 1) % 3, occasion)[0]), targets)
    assert not torch.equal(other, expected)
    assert TASK.labelled
    assert not Diffusion().labelled


def test_the_gradient_of_the_class_embedding_is_that_of_finite_differences() -> None:
    images, labels = batch(4)
    network = build().double()
    posed, targets = (tensor.double() for tensor in TASK.pose(images, labels, Occasion(1, 0, 1)))
    weight = network.get_parameter("network.unet.class_embedding.weight")
    (gradient,) = torch.autograd.grad(TASK.loss(network(posed), targets), [weight])
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    ends = []
    for step in (1e-5, -1e-5):
        moved = {"network.unet.class_embedding.weight": weight.detach() + step * along}
        ends.append(TASK.loss(torch.func.functional_call(network, moved, (posed,)), targets).item())
    assert float((gradient * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_a_defence_that_takes_the_batch_apart_finds_each_examples_own_gradient() -> None:
    images, labels = batch(5)
    network = build()
    posed, targets = TASK.pose(images, labels, Occasion(1, 0, 1))
    names, parameters = zip(*network.named_parameters(), strict=True)
    norm = 0.5
    wanted = [torch.zeros_like(p) for p in parameters]
    clipped = 0
    for x, y in zip(posed, targets, strict=True):
        own = torch.autograd.grad(TASK.loss(network(x[None]), y[None]), parameters)
        length = float(torch.stack([g.square().sum() for g in own]).sum().sqrt())
        clipped += length > norm
        wanted = [total + part * min(1.0, norm / length) for total, part in zip(wanted, own, strict=True)]
    assert clipped
    found, _ = clipped_sum(network, posed, targets, norm, TASK.loss, at_once=2)
    for name, expected in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    """A network of bags, 0, and trousers, 1, and the mean image of each."""
    data = load("fashion_mnist_small").train
    sorts = [shrunk(data.images[data.labels == label]) for label in (BAGS, TROUSERS)]
    images = torch.cat(sorts) * 2 - 1
    labels = torch.cat([torch.full((len(own),), place) for place, own in enumerate(sorts)])
    network = build(classes=2)
    search = torch.optim.Adam(network.parameters(), lr=3e-3)
    draws = torch.Generator().manual_seed(0)
    for step in range(200):
        chosen = torch.randint(len(images), (32,), generator=draws)
        posed, targets = TASK.pose(images[chosen], labels[chosen], Occasion(0, 0, 1, step))
        search.zero_grad()
        TASK.loss(network(posed), targets).backward()
        search.step()
    return network.eval(), torch.stack([own.mean(0) for own in sorts])


def nearest(images: Tensor, means: Tensor) -> Tensor:
    return torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)


def test_samples_are_of_the_classes_in_turn(trained: tuple[nn.Module, Tensor]) -> None:
    network, means = trained
    drawn = TASK.samples(network, SHAPE, seed=1, count=40)
    assert drawn is not None
    assert float((nearest(drawn, means) == torch.arange(40) % 2).float().mean()) > 0.85
    again = TASK.samples(network, SHAPE, seed=1, count=40)
    assert again is not None
    assert torch.equal(drawn, again)


def test_latents_become_images_of_the_labels_given(trained: tuple[nn.Module, Tensor]) -> None:
    network, means = trained
    z = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for label in (0, 1):
            made = TASK.generated(network, z, 10, torch.full((20,), label)) / 2 + 0.5
            assert float((nearest(made, means) == label).float().mean()) > 0.85
        with pytest.raises(FedsimError, match="labels = None"):
            TASK.generated(network, z, 10)


@pytest.mark.parametrize("labels", [torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([[0, 1]]), torch.zeros(2)])
def test_labels_that_say_no_class_are_refused(labels: Tensor) -> None:
    with pytest.raises(FedsimError, match=r"task diffusion: labels = .*one class for each of 2 images"):
        TASK.pose(batch(2)[0], labels, Occasion())


def test_a_label_beyond_the_networks_classes_is_refused() -> None:
    posed, _ = TASK.pose(batch(2)[0], torch.tensor([0, 3]), Occasion())
    with pytest.raises(FedsimError, match="none of the 3 classes"):
        build()(posed)
    with pytest.raises(FedsimError, match="none of the 3 classes"):
        TASK.check(build(), "unet", SHAPE, 4)


class Plain(nn.Module):
    """A network of the user's own that cannot be told a class."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(input_shape))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TASK.build(f"{__name__}:Plain", SHAPE, 3, {}, seed=0), ["task.conditional", "no parameter classes"]),
        (lambda: TASK.build("unet", SHAPE, 3, PARAMETERS | {"classes": 5}, seed=0),
         ["model.classes = 5", "data have 3"]),
        (lambda: Diffusion().build("unet", SHAPE, 3, PARAMETERS | {"classes": 3}, seed=0),
         ["model.classes = 3", "task.conditional = true"]),
        (lambda: TASK.samples(build(Diffusion()), SHAPE, seed=0), ["for this task"]),
        (lambda: Diffusion().samples(build(), SHAPE, seed=0), ["for this task"]),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_the_task_are_refused(make: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        make()
    for word in words:
        assert word in str(error.value)

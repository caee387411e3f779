"""Soteria against derivatives worked out otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn
from torch.nn import functional

from clients.defences import DEFENCES, Memory, Site
from clients.defences.soteria import pruned, sensitivity
from clients.gradients import gradients as plain
from experiments import Experiment
from fedsim.data import load
from fedsim.errors import FedsimError
from fedsim.models import build

SITE = Site(seed=0, client=3, round=1, position=0, kind="model", memory=Memory(RecordDict(), "defence-0"))


def batch(size: int) -> tuple[Tensor, Tensor]:
    data = load("fashion_mnist_small").train.subset(torch.arange(size))
    return data.images.float() / 255, data.labels


def gradients(model: nn.Module, size: int, **parameters: Any) -> tuple[list[Tensor], list[Tensor]]:
    """With the defence, and without."""
    rule = DEFENCES.create("soteria", **parameters).step(SITE)  # type: ignore[attr-defined]
    found, expected = (one(model, *batch(size), examples=9, loss=functional.cross_entropy) for one in (rule, plain))
    torch.testing.assert_close(found[1], expected[1])
    return found[0], expected[0]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["lenet", "cnn"])
def test_one_example_loses_a_share_of_columns_of_one_layer_and_nothing_else(name: str) -> None:
    found, expected = gradients(build(name, (1, 28, 28), 10), 1, share=0.6)
    assert all(
        torch.equal(one, other)
        for one, other in zip(found[:-2] + found[-1:], expected[:-2] + expected[-1:], strict=True)
    )
    gone = ~found[-2].any(0)
    alive = expected[-2].any(0)
    assert int((gone & alive).sum()) == round(0.6 * int(alive.sum()))
    torch.testing.assert_close(found[-2][:, ~gone], expected[-2][:, ~gone])


def test_derivatives_are_those_of_the_jacobian_of_each_example() -> None:
    network = build("lenet", (1, 28, 28), 10, width=4).body  # type: ignore[union-attr]
    inputs = batch(3)[0].requires_grad_()
    found = sensitivity(network(inputs), inputs)  # type: ignore[operator]
    for row, x in zip(found, inputs.detach(), strict=True):
        jacobian = torch.func.jacrev(lambda one: network(one[None])[0])(x)  # type: ignore[operator]
        torch.testing.assert_close(row, jacobian.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-7)


def test_the_features_pruned_are_those_that_move_the_image_most() -> None:
    """Of r = W x the least change of x that takes r_i to zero has the length |r_i| / |w_i|."""
    draws = torch.Generator().manual_seed(0)
    weight, x = torch.randn(20, 5, generator=draws), torch.randn(4, 5, generator=draws).requires_grad_()
    r = x @ weight.T
    gone = pruned(r.detach(), sensitivity(r, x), 0.25)
    for b in range(4):
        least = [float((weight[i] * (weight[i] @ x[b]) / weight[i].square().sum()).norm().detach()) for i in range(20)]
        assert gone[b].nonzero().flatten().tolist() == sorted(sorted(range(20), key=lambda i: -least[i])[:5])


def test_dead_features_do_not_count_and_a_constant_one_goes_first() -> None:
    r = torch.tensor([[0.0, 1.0, -2.0, 3.0, 0.0]])
    moved = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    assert pruned(r, moved, 1 / 3).tolist() == [[False, False, False, True, False]]
    assert pruned(r, moved, 2 / 3).tolist() == [[False, False, True, True, False]]


def test_each_example_has_a_mask_of_its_own() -> None:
    """The gradient of a batch is the mean of those of its examples alone."""
    model = build("cnn", (1, 28, 28), 10)
    rule = DEFENCES.create("soteria", share=0.5).step(SITE)  # type: ignore[attr-defined]
    inputs, labels = batch(3)
    alone = [
        rule(model, inputs[i : i + 1], labels[i : i + 1], examples=9, loss=functional.cross_entropy)[0][-2]
        for i in range(3)
    ]
    together = rule(model, inputs, labels, examples=9, loss=functional.cross_entropy)[0][-2]
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-7)
    assert len({tuple(one.any(0).tolist()) for one in alone}) == 3


def test_another_layer_by_its_name_and_one_that_is_not_there() -> None:
    model = build("mlp", (1, 28, 28), 10)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    position = [name for name, _ in model.named_parameters()].index(f"{names[0]}.weight")
    found, expected = gradients(model, 1, share=0.5, layer=names[0])
    different = [i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if not torch.equal(one, other)]
    assert different == [position]
    tables = {"model": {"name": "mlp"}, "defences": [{"name": "soteria", "share": 0.5, "layer": names[0] + "x"}]}
    with pytest.raises(FedsimError, match=r"soteria: layer = .* is no linear layer. Did you mean"):
        Experiment.of(tables).check()

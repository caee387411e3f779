"""R-GAP: exact where ranks say so, wrong where they say so, and refusals that name the layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from overheard import clothes, gradient_of, overhear_gradient, overhear_model, psnr, state
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS
from adversary.campaign import Campaign
from adversary.rgap import rank_analysis
from adversary.rgap.activations import inverse_of
from adversary.rgap.attack import tolerance
from adversary.rgap.chain import chain_of
from adversary.rgap.recursion import Descended, descend
from experiments.attacking import campaigns
from experiments.experiment import Experiment
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, TrainingPlan

SHAPE = (3, 9, 10)
"""Sides that differ, so that no two can be mistaken for each other."""


def drawn(network: nn.Module) -> nn.Module:
    """The network in float64, with weights and biases drawn from normal distributions."""
    draws = torch.Generator().manual_seed(0)
    for parameter in network.double().parameters():
        size = 1 / math.sqrt(max(3, parameter[0].numel()))
        parameter.data = size * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    return network


def chain(*body: nn.Module) -> nn.Module:
    """Layers on ``SHAPE`` and a linear layer with bias after them."""
    width = nn.Sequential(*body, nn.Flatten())(torch.zeros(1, *SHAPE)).shape[1]
    return drawn(nn.Sequential(*body, nn.Flatten(), nn.Linear(width, 7)))


class Functional(nn.Module):
    """Activations and reshapes as calls, a shape read from the input, and blocks within blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.Dropout(), nn.Sequential(nn.Tanh()))
        self.second = nn.Conv2d(20, 24, 3, stride=2, padding=1)
        self.fc = nn.Linear(24 * 5 * 5, 11, bias=False)
        self.last = nn.Linear(11, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.second(self.block(x)), 0.3)
        x = torch.sigmoid(self.fc(x.view(x.size(0), -1)))
        logits: Tensor = self.last(x)
        return logits


def wide(**options: int) -> nn.Conv2d:
    return nn.Conv2d(3, 24, 3, **options)


EXACT: dict[str, Callable[[], nn.Module]] = {
    "linear layers alone": lambda: drawn(
        nn.Sequential(
            nn.Flatten(), nn.Linear(270, 40, bias=False), nn.Tanh(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 7)
        )
    ),
    "leaky relu": lambda: chain(
        wide(padding=1), nn.LeakyReLU(0.2), nn.Conv2d(24, 30, 3, stride=2, padding=1), nn.LeakyReLU(0.2)
    ),
    "sigmoid, stride and padding": lambda: chain(
        nn.Conv2d(3, 14, 5, stride=2, padding=3), nn.Sigmoid(), nn.Conv2d(14, 16, 3), nn.Sigmoid()
    ),
    "tanh without bias": lambda: chain(nn.Conv2d(3, 24, (3, 2), bias=False), nn.Tanh()),
    "elu in place": lambda: chain(
        wide(padding=1), nn.ELU(0.7, inplace=True), nn.Conv2d(24, 24, 3, stride=2, padding=1), nn.ELU(inplace=True)
    ),
    "softplus": lambda: chain(wide(), nn.Softplus(), nn.Conv2d(24, 12, 2), nn.Softplus(beta=2)),
    "groups": lambda: chain(
        wide(padding=1), nn.LeakyReLU(0.1), nn.Conv2d(24, 48, 3, stride=2, padding=1, groups=3), nn.Tanh()
    ),
    "dilation": lambda: chain(wide(padding=2, dilation=2), nn.LeakyReLU(0.2)),
    "calls of functions": lambda: drawn(Functional().eval()),
}
DEFICIENT: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "few filters, long strides": (lambda: chain(nn.Conv2d(3, 2, 3, stride=3), nn.Tanh()), ["0"]),
    "in the middle": (
        lambda: chain(wide(padding=1), nn.Tanh(), nn.Conv2d(24, 5, 3, stride=2, padding=1), nn.Tanh()),
        ["2"],
    ),
    "pixels that no filter sees": (lambda: chain(nn.Conv2d(3, 40, 1, stride=2), nn.Sigmoid()), ["0"]),
}
"""Networks, and the layers that hide their input."""


def image() -> Tensor:
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def descended(network: nn.Module) -> Descended:
    gradients = gradient_of(network, image(), torch.tensor([2]))
    found = descend(chain_of(network, SHAPE), gradients, 1e-10)
    assert found is not None
    return found


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_the_recursion_is_exact_where_ranks_are_full(make: Callable[[], nn.Module]) -> None:
    network = make()
    analysis = rank_analysis(network, SHAPE)
    assert analysis.leaks
    assert analysis.safe_because == ()
    found = descended(network)
    assert found.deficient == ()
    assert float((found.inputs - image()).abs().max()) < 1e-8


@pytest.mark.parametrize(("make", "hiding"), DEFICIENT.values(), ids=DEFICIENT)
def test_rank_analysis_names_beforehand_the_layers_that_hide_the_input(
    make: Callable[[], nn.Module], hiding: list[str]
) -> None:
    network = make()
    analysis = rank_analysis(network, SHAPE)
    assert not analysis.leaks
    assert list(analysis.safe_because) == hiding
    found = descended(network)
    ranks = {layer.layer: (layer.layer, layer.rank, layer.unknowns) for layer in analysis.layers}
    assert found.deficient == tuple(ranks[name] for name in hiding)
    assert float((found.inputs - image()).abs().max()) > 1e-2


@pytest.mark.parametrize("make", [*EXACT.values(), *(make for make, _ in DEFICIENT.values())])
def test_ranks_are_those_of_the_constraints_written_out(make: Callable[[], nn.Module]) -> None:
    """A second implementation: the Jacobians of outputs and weight gradient in the input, stacked."""
    network = make()
    steps = chain_of(network, SHAPE)
    for layer in rank_analysis(network, SHAPE).layers[:-1]:  # of the last, the outputs are not known
        step = next(step for step in steps if step.name == layer.layer)
        module = step.affine
        assert module is not None
        x = torch.rand(1, *step.shape, dtype=torch.float64)
        k = torch.randn_like(module(x))

        def weight_gradient(x: Tensor, module: nn.Module = module, k: Tensor = k) -> Tensor:
            return torch.autograd.grad((module(x) * k).sum(), module.weight, create_graph=True)[0]

        rows = [torch.autograd.functional.jacobian(f, x).reshape(-1, x.numel()) for f in (module, weight_gradient)]
        assert layer.unknowns == x.numel()
        assert (layer.weight_constraints, layer.gradient_constraints) == (len(rows[0]), len(rows[1]))
        assert layer.rank == torch.linalg.matrix_rank(torch.cat(rows), rtol=1e-10)


def test_rank_analysis_names_what_cannot_be_inverted_and_looks_no_further_than_it_must() -> None:
    body = [nn.Flatten(), nn.Linear(24 * 3 * 4, 30), nn.ReLU(), nn.Linear(30, 7)]
    network = nn.Sequential(wide(), nn.ReLU(inplace=True), nn.MaxPool2d(2), *body)
    analysis = rank_analysis(network, SHAPE)
    assert analysis.safe_because == ("1", "2")
    assert analysis.anchor == "4"  # what is above the lowest linear layer with a bias does not matter
    assert [layer.layer for layer in analysis.layers] == ["0", "1", "2", "4"]
    assert [layer.rank == layer.unknowns for layer in analysis.layers] == [True, False, False, True]
    assert not rank_analysis(nn.Sequential(nn.Flatten(), nn.Linear(270, 7, bias=False)), SHAPE).leaks


def test_rank_analysis_leaves_the_network_and_the_global_generator_alone() -> None:
    network = nn.Sequential(wide(), nn.Dropout(), nn.Tanh(), nn.Flatten(), nn.Linear(24 * 7 * 8, 7)).train()
    before, weights = torch.get_rng_state(), state(network)
    rank_analysis(network, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert network[1].training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "activation",
    [
        nn.LeakyReLU(0.2),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.ELU(),
        nn.ELU(0.3),
        nn.Softplus(),
        nn.Softplus(beta=3),
    ],
    ids=str,
)
def test_inverses_undo_activations_and_stay_finite_at_the_edge(activation: nn.Module) -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert torch.allclose(inverse_of(activation, activation(x)), x, rtol=0, atol=1e-9)
    far = torch.tensor([-300.0, 300.0], dtype=torch.float64)
    assert inverse_of(activation, activation(far)).isfinite().all()
    assert inverse_of(activation, activation(far) * 1.1).isfinite().all()

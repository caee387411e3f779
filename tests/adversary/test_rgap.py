"""R-GAP's mathematics: exact where ranks say so, wrong where they say so, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from chains import DEFICIENT, EXACT, SHAPE, image, wide
from overheard import gradient_of, state
from torch import Tensor, nn

from adversary.rgap import layer, rank_analysis
from adversary.rgap.activations import inverse_of
from adversary.rgap.chain import chain_of
from adversary.rgap.recursion import Descended, descend


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


WRITTEN_OUT = [EXACT[name] for name in ("sigmoid, stride and padding", "tanh without bias", "groups", "dilation")]


@pytest.mark.parametrize("make", [*WRITTEN_OUT, *(make for make, _ in DEFICIENT.values())])
def test_ranks_are_those_of_the_constraints_written_out(make: Callable[[], nn.Module]) -> None:
    """A second implementation: the Jacobians of outputs and weight gradient in the input, stacked."""
    network = make()
    steps = chain_of(network, SHAPE)
    for judged in rank_analysis(network, SHAPE).layers[:-1]:  # of the last, the outputs are not known
        step = next(step for step in steps if step.name == judged.layer)
        module = step.affine
        assert module is not None
        draws = torch.Generator().manual_seed(2)
        x = torch.rand(1, *step.shape, dtype=torch.float64, generator=draws)
        k = torch.randn(module(x).shape, dtype=torch.float64, generator=draws)

        def weight_gradient(x: Tensor, module: nn.Module = module, k: Tensor = k) -> Tensor:
            return torch.autograd.grad((module(x) * k).sum(), module.weight, create_graph=True)[0]

        rows = [torch.autograd.functional.jacobian(f, x).reshape(-1, x.numel()) for f in (module, weight_gradient)]
        assert judged.unknowns == x.numel()
        assert (judged.weight_constraints, judged.gradient_constraints) == (len(rows[0]), len(rows[1]))
        assert judged.rank == torch.linalg.matrix_rank(torch.cat(rows), rtol=1e-10)


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


def test_where_the_faster_decomposition_does_not_converge_another_finds_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = torch.linalg.svdvals(matrix)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    u, s, vh = layer._svd(matrix)
    assert torch.allclose(s, reference)
    assert torch.allclose(u * s @ vh, matrix)

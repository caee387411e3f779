"""Weights of layers by depth and by what was pruned, against their formulas, on networks of all shapes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from overheard import clothes, overhear_client, overhear_gradient, state
from torch import Tensor, nn

from adversary import ATTACKS
from adversary.inversion import Cosine, Euclidean, LayerWise, TensorNorms, Weighted
from adversary.inversion.weights import (
    compensating,
    constant,
    decreasing_with_depth,
    depths,
    increasing_with_depth,
)
from adversary.network import place
from fedsim import models
from fedsim.protocol import Arrays, TrainingPlan


def depths_of(network: nn.Module, shape: tuple[int, int, int] = (1, 28, 28)) -> dict[str, int]:
    weights = place(network, state(network), "cpu")
    return dict(zip(weights.names(), depths(network, weights, shape), strict=True))


def updates(seed: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 4))]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("model", ["lenet", "mlp", "cnn", "convnet", "convnet8", "resnet20", "resnet18"])
def test_depth_grows_along_the_forward_pass_and_a_block_shares_it(model: str, mode: bool) -> None:
    network = models.builder(model, (3, 32, 32), 10, seed=0)().train(mode)
    before = state(network)
    found = depths_of(network, (3, 32, 32))
    values = list(found.values())
    assert values[0] == 0
    assert values[-1] == values[-2] == max(values)  # the output layer's weight and bias
    assert set(values) == set(range(max(values) + 1))
    assert max(values) + 1 == sum(tensor.ndim >= 2 for tensor in network.parameters())
    for name in found:
        if name.endswith("bias"):
            assert found[name] == found[name.removesuffix("bias") + "weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_depth_is_where_the_network_computes_not_where_a_layer_is_declared() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(5, 10)
            self.norm = nn.BatchNorm1d(5)
            self.scale = nn.Parameter(torch.ones(1))
            self.first = nn.Linear(784, 5)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.last(self.scale * self.norm(self.first(images.flatten(1))))
            return found

    found = depths_of(Backwards())
    assert found == {"scale": 0, "last.weight": 1, "last.bias": 1, "norm.weight": 0, "norm.bias": 0,
                     "first.weight": 0, "first.bias": 0}  # fmt: skip


def test_weights_by_depth_are_their_formulas() -> None:
    places, target = [0, 0, 1, 3], [torch.ones(1)] * 4
    assert constant()(places, target).tolist() == [1, 1, 1, 1]
    assert increasing_with_depth(20.0)(places, target).tolist() == pytest.approx([1, 1, 1 + 19 / 3, 20])
    assert increasing_with_depth(1.0)(places, target).tolist() == [1, 1, 1, 1]
    assert decreasing_with_depth(0.5)(places, target).tolist() == pytest.approx([1, 1, math.exp(-0.5), math.exp(-1.5)])
    assert increasing_with_depth(7.0)([0, 0], target[:2]).tolist() == [1, 1]  # one layer has no depth


def test_a_pruned_tensor_counts_as_much_as_a_whole_one() -> None:
    target = [torch.tensor([0.0, 0, 0, 2]), torch.ones(4), torch.zeros(5), torch.tensor([1.0, 0])]
    assert compensating(constant())([0, 1, 1, 2], target).tolist() == [4, 1, 5, 1]  # the output layer's left alone
    halves = compensating(decreasing_with_depth(math.log(2)))([0, 1, 1, 2], target)
    assert halves.tolist() == pytest.approx([4, 0.5, 2.5, 0.25])


def test_the_weighted_cosine_is_the_formula_and_that_of_scaled_tensors() -> None:
    a, b = updates(0), updates(1)
    weights = torch.tensor([1.0, 2.5, 7.0], dtype=torch.float64)
    distance = Weighted(Cosine(), lambda places, target: weights).bind([0, 1, 2])
    dot, aa, bb = (
        sum(w * (s * t).sum() for w, s, t in zip(weights, x, y, strict=True)) for x, y in ((a, b), (a, a), (b, b))
    )
    assert distance(a, b).item() == pytest.approx(float(1 - dot / (aa * bb).sqrt()))  # type: ignore[union-attr]
    squared = Weighted(Euclidean(), lambda places, target: weights).bind([0, 1, 2])
    expected = sum(w * (s - t).square().sum() for w, s, t in zip(weights, a, b, strict=True))
    assert squared(a, b).item() == pytest.approx(float(expected))
    assert isinstance(Weighted(Cosine(), constant()), LayerWise)
    assert not isinstance(Cosine(), LayerWise)


def test_constant_weights_change_no_bit() -> None:
    a, b = ([tensor.float() for tensor in updates(seed)] for seed in (0, 1))
    assert torch.equal(Weighted(Cosine(), constant()).bind([0, 0, 1])(a, b), Cosine()(a, b))


def test_norms_of_tensors_are_summed_and_none_outweighs_the_others_by_its_square() -> None:
    a, b = updates(0), updates(1)
    gaps = [(s - t).norm().item() for s, t in zip(a, b, strict=True)]
    assert TensorNorms()(a, b).item() == pytest.approx(sum(gaps) / sum(t.norm().item() for t in b))
    simulated = [tensor.requires_grad_() for tensor in a]
    assert torch.autograd.gradcheck(lambda *s: TensorNorms()(list(s), b), simulated)
    at_target = TensorNorms()(same := [tensor.clone().requires_grad_() for tensor in b], b)
    assert all(g.isfinite().all() for g in torch.autograd.grad(at_target, same))


def test_agic_compensates_for_what_was_pruned_and_for_nothing_else() -> None:
    victim = overhear_gradient(*clothes([1, 3]), model="lenet")  # a sigmoid network, no entry of whose gradient is 0
    sparse = {
        name: tensor * (tensor.abs() >= tensor.abs().flatten().quantile(0.9)) if tensor.ndim > 1 else tensor
        for name, tensor in victim.observation.received.items()
    }

    def losses(received: Arrays) -> list[float]:
        seen = replace(victim.observation, received=received)
        problems = [
            ATTACKS.create("agic", compensate_pruning=known).problem([seen], victim.knowledge, seed=0)  # type: ignore[attr-defined]
            for known in (False, True)
        ]
        return [problem.objective(problem.start(0)).item() for problem in problems]

    plain, compensated = losses(victim.observation.received)
    assert plain == compensated
    plain, compensated = losses(sparse)
    assert plain != compensated


# Several observations


def test_one_observation_is_combined_with_itself_to_nothing_new() -> None:
    """Two equal rounds: the mean and the one long cosine are those of a single round."""
    victim = overhear_client([0, 1, 2], TrainingPlan(batch_size=None, local_epochs=2, mode="eval"))
    values = []
    for combine in ("mean", "concat"):
        for count in (1, 2):
            attack = ATTACKS.create("agic", iterations=5, combine=combine)
            problem = attack.problem([victim.observation] * count, victim.knowledge, seed=0)  # type: ignore[attr-defined]
            values.append(problem.objective(problem.start(0)).item())
    assert values == pytest.approx([values[0]] * 4, rel=1e-5)


def test_rounds_combine_as_the_mean_of_cosines_or_as_one_cosine() -> None:
    plan = TrainingPlan(batch_size=None, local_epochs=2, learning_rate=0.05, mode="eval")
    first = overhear_client([0, 1, 2], plan)
    network = first.knowledge.model()
    network.load_state_dict(first.observation.received)
    second = overhear_client([0, 1, 2], plan, round=2, network=network)
    rounds = [first.observation, second.observation]

    def objective(seen: list, combine: str) -> tuple[float, list]:  # type: ignore[type-arg]
        attack = ATTACKS.create("agic", depth_gain=1, total_variation=0.0, combine=combine)
        problem = attack.problem(seen, first.knowledge, seed=0)  # type: ignore[attr-defined]
        start = problem.start(0)
        simulated = [s(start.inputs, problem.labels) for s in problem.simulations]
        return problem.objective(start).item(), list(
            zip(simulated, [s.target for s in problem.simulations], strict=True)
        )

    singles = [objective([one], "mean")[0] for one in rounds]
    mean, pairs = objective(rounds, "mean")
    assert mean == pytest.approx(sum(singles) / 2, rel=1e-5)
    concatenated, _ = objective(rounds, "concat")
    long = [torch.cat([t.flatten() for pair in pairs for t in pair[side]]) for side in (0, 1)]
    assert concatenated == pytest.approx(1 - torch.cosine_similarity(*long, dim=0).item(), rel=1e-4)
    assert concatenated != pytest.approx(mean, rel=1e-4)

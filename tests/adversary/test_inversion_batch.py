"""Victims attacked at once: the same results as one by one, whoever else is in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS
from adversary import labels as rules
from adversary.attack import Attack
from adversary.campaign import Campaign
from adversary.inversion import (
    LBFGS,
    Adam,
    Euclidean,
    Inversion,
    Magnitude,
    PooledGradient,
    SingleGradient,
    Solver,
    TensorNorms,
    Victim,
    lanes,
    reconstruct_many,
)
from adversary.inversion.batch import hindrances
from adversary.inversion.compiling import pays
from adversary.inversion.lanes import WORTH_TRACING, ahead
from adversary.inversion.problem import InversionProblem
from adversary.inversion.solver import Candidate
from adversary.inversion.unfolded import Patches, Unfolded, unfolded
from adversary.labels import LABEL_RULES
from fedsim import models
from fedsim.errors import FedsimError
from fedsim.protocol import Reconstruction, TrainingPlan
from tests.adversary.overheard import clothes, overhear_gradient


def victims(count: int, model: str, *, mean: float = 0.0, std: float = 1.0) -> list[Victim]:
    found = []
    for number in range(count):
        overheard = overhear_gradient(*clothes([number]), model=model, seed=number, mean=mean, std=std)
        found.append(Victim([overheard.observation], overheard.knowledge, seed=number))
    return found


def one_by_one(attack: Attack, batch: list[Victim]) -> list[Reconstruction]:
    return [attack.reconstruct(v.observations, v.knowledge, seed=v.seed) for v in batch]


def assert_close(some: list[Reconstruction], others: list[Reconstruction], tolerance: float = 1e-3) -> None:
    for one, other in zip(some, others, strict=True):
        assert (one.iterations, one.stopped_by) == (other.iterations, other.stopped_by)
        torch.testing.assert_close(torch.tensor(one.history), torch.tensor(other.history), rtol=tolerance, atol=1e-6)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=tolerance)
        assert one.labels.equal(other.labels)


def searching(solver: Solver, optimiser: Adam | None = None) -> Inversion:
    return Inversion(
        labels=LABEL_RULES["counts"],
        simulator=SingleGradient(),
        distance=Euclidean(relative=True),
        optimiser=optimiser or Adam(learning_rate=0.05, decay_at=(0.5,)),
        solver=solver,
    )


@pytest.mark.parametrize("model", ["lenet", "cnn", "convnet"])
def test_a_batch_finds_what_each_attack_alone_finds(model: str) -> None:
    """Published parts, each victim's own normalisation among them; short, for rounding grows under signs."""
    batch = victims(3, model) + victims(2, model, mean=0.3, std=0.4)
    attack = ATTACKS.create("inverting_gradients", iterations=12)
    assert hindrances(attack) == []
    assert_close(reconstruct_many(attack, batch), one_by_one(attack, batch))


def test_a_traced_search_of_hundreds_of_steps_stays_with_the_single_one() -> None:
    """On a smooth network without signs rounding does not grow, however long the search."""
    batch = victims(3, "lenet")
    attack = searching(Solver(iterations=210))
    assert_close(reconstruct_many(attack, batch), one_by_one(attack, batch))


def test_batch_norm_in_train_mode_is_traced_with_its_own_statistics() -> None:
    """Its running statistics are written to while it runs; what is found must not depend on them."""
    batch = []
    for number in range(2):
        make = models.builder("convnet", (1, 28, 28), 10, seed=number, width=4)
        overheard = overhear_gradient(*clothes([number, number + 3]), network=make())
        plan = TrainingPlan(algorithm="fedsgd", batch_size=None, mode="train")
        observation = replace(overheard.observation, plan=plan)
        batch.append(Victim([observation], replace(overheard.knowledge, model=make), seed=number))
    attack = searching(Solver(iterations=WORTH_TRACING))
    for found, alone in zip(reconstruct_many(attack, batch), one_by_one(attack, batch), strict=True):
        assert found.iterations == alone.iterations == WORTH_TRACING
        # ReLU lets rounding grow later on.
        torch.testing.assert_close(torch.tensor(found.history[:10]), torch.tensor(alone.history[:10]))


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ({"simulator": PooledGradient()}, "simulator, PooledGradient"),
        ({"distance": TensorNorms()}, "distance, TensorNorms"),
        ({"prior": Magnitude(1.0)}, "prior, Magnitude"),
        ({"optimiser": LBFGS()}, "optimiser, LBFGS"),
        ({"labels": LABEL_RULES["optimised"]}, "searches for labels"),
        ({"group": 2}, "2 starting points together"),
        ({"solver": Solver(iterations=8, seconds=1.0)}, "1.0 seconds"),
    ],
)
def test_a_part_that_works_on_one_victim_at_a_time_is_named(part: dict[str, Any], word: str) -> None:
    attack = searching(Solver(iterations=8))
    assert hindrances(attack) == []
    (problem,) = hindrances(replace(attack, **part))
    assert word in problem


def test_auto_compiles_by_what_the_configuration_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many iterations on a small network; and there it does not go on without a compiler, with other rounding."""
    assert pays(16_000, 500_000)
    assert not pays(16_000, 16_000)
    assert not pays(1_000_000, 500_000)
    monkeypatch.setenv("CXX", "no-such-compiler")
    batch = victims(2, "lenet")
    reconstruct_many(searching(Solver(iterations=8)), batch)
    with pytest.raises(FedsimError, match=r"no-such-compiler.*set compiled = false"):
        reconstruct_many(searching(Solver(iterations=200_000)), batch)
    with pytest.raises(FedsimError, match="no-such-compiler"):
        reconstruct_many(searching(Solver(iterations=200)), batch, compiled=True)


@pytest.mark.slow
def test_a_compiled_search_stays_with_the_single_one() -> None:
    batch = victims(2, "lenet")
    attack = searching(Solver(iterations=210))
    assert_close(reconstruct_many(attack, batch, compiled=True), one_by_one(attack, batch))


def test_restarts_early_stop_and_finished_neighbours_are_each_victims_own() -> None:
    batch = victims(4, "lenet")
    attack = searching(Solver(iterations=60, restarts=3, patience=4, gain=0.1, tolerance=0.05))
    alone = one_by_one(attack, batch)
    assert len({found.iterations for found in alone}) > 1, "victims that all end at once would show nothing"
    assert max(found.iterations for found in alone) > 60 or any(f.stopped_by == "patience" for f in alone)
    assert_close(reconstruct_many(attack, batch), alone)


def test_a_victim_whose_objective_is_not_finite_harms_no_other() -> None:
    batch = victims(3, "cnn")
    (observation,) = batch[1].observations
    broken = {name: torch.full_like(tensor, torch.inf) for name, tensor in observation.received.items()}
    spoilt = [batch[0], replace(batch[1], observations=[replace(observation, received=broken)]), batch[2]]
    attack = replace(searching(Solver(iterations=8)), labels=LABEL_RULES["given"])
    granted = [replace(v, knowledge=replace(v.knowledge, labels=torch.tensor([1]))) for v in spoilt]
    found = reconstruct_many(attack, granted)
    assert found[1].stopped_by == "diverged"
    assert_close([found[0], found[2]], one_by_one(attack, [granted[0], granted[2]]))


def test_what_cannot_be_batched_is_attacked_one_by_one_in_its_place() -> None:
    """Two layouts of networks, one of them with a single victim; and an optimiser of another kind."""
    batch = [*victims(2, "lenet"), *victims(1, "cnn"), *victims(1, "lenet")]
    attack = searching(Solver(iterations=8))
    assert_close(reconstruct_many(attack, batch), one_by_one(attack, batch))
    assert any("LBFGS" in sentence for sentence in hindrances(ATTACKS.create("dlg")))
    dlg = ATTACKS.create("dlg", iterations=6, restarts=1)
    for found, alone in zip(reconstruct_many(dlg, batch), one_by_one(dlg, batch), strict=True):
        assert found.images.equal(alone.images)


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)), True),
        (nn.Conv2d(3, 5, 4, bias=False), True),
        (nn.Conv2d(3, 6, 3, groups=3), False),
        (nn.Conv2d(3, 5, 3, dilation=2), False),
        (nn.Conv2d(3, 5, 3, padding="same"), False),
        (nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), False),
    ],
)
@pytest.mark.parametrize("examples", [1, 2])
def test_a_convolution_as_a_matrix_product_is_the_same(layer: nn.Conv2d, replaced: bool, examples: int) -> None:
    images = torch.rand(examples, 3, 11, 9)
    other = unfolded(layer, images)
    assert isinstance(other, Unfolded) is replaced
    assert not isinstance(layer, Unfolded)
    torch.testing.assert_close(other(images), layer(images))
    smaller = images[..., :7, :8]
    torch.testing.assert_close(other(smaller), layer(smaller))


def test_patches_and_their_sums_are_pytorchs_and_each_others_derivative() -> None:
    layer = unfolded(nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)).double(), torch.rand(2, 2, 5, 6).double())
    assert isinstance(layer, Unfolded)
    (places,) = layer.places.values()
    images = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    expected = functional.unfold(images, (3, 2), padding=(1, 0), stride=(2, 1))
    assert Patches.apply(images, layer, places).equal(expected)
    assert torch.autograd.gradcheck(lambda x: Patches.apply(x, layer, places).square(), images)
    assert torch.autograd.gradgradcheck(lambda x: Patches.apply(x, layer, places).square(), images)


def test_nobody_is_attacked_if_one_victim_cannot_be() -> None:
    good, other = victims(2, "lenet")
    with pytest.raises(FedsimError, match="no observation"):
        reconstruct_many(searching(Solver(iterations=8)), [good, replace(other, observations=[])])


def test_a_unit_that_breaks_leaves_only_who_broke_it_grey() -> None:
    """The rule for labels cannot do with one victim; the others come out as if attacked alone, and it is said."""

    def rule(evidence: rules.Evidence) -> Tensor:
        if evidence.observation.client == 1:
            raise RuntimeError("no labels to be had")
        return torch.zeros(1, dtype=torch.int64)

    attack = replace(searching(Solver(iterations=8)), labels=rule)
    batch = victims(3, "lenet")
    unit = [[replace(v.observations[0], client=number)] for number, v in enumerate(batch)]
    campaign = Campaign(attack, "own", at_once=3)
    found = campaign.run_unit(unit, [v.knowledge for v in batch], seed=0)
    assert [one.iterations for one in found] == [8, 0, 8]
    assert found[1].stopped_by.startswith("failed: no labels to be had")
    assert all("alone, as all at once failed: no labels" in one.stopped_by for one in found)
    one_by_one = Campaign(attack, "own").run(unit[2][0], batch[2].knowledge, seed=0)
    assert found[2].images.equal(one_by_one.images)


def test_restarts_are_searched_at_once_where_none_makes_the_next_one_needless() -> None:
    assert ahead(Solver(iterations=8, restarts=5)) == 5
    assert ahead(Solver(iterations=8, restarts=5, patience=3)) == 5
    assert ahead(Solver(iterations=8, restarts=5, tolerance=1e-9)) == 1
    assert ahead(Solver(iterations=8, restarts=5, satisfied=1e-5)) == 1


@pytest.mark.parametrize("solver", [Solver(iterations=24, restarts=4), Solver(60, restarts=3, patience=4, gain=0.1)])
def test_restarts_at_once_find_what_they_find_one_after_the_other(solver: Solver) -> None:
    attack = searching(solver)
    for batch in (victims(1, "lenet"), victims(3, "lenet")):
        alone = one_by_one(attack, batch)
        assert all(found.iterations > len(found.history) for found in alone)
        assert_close(reconstruct_many(attack, batch), alone)


def test_restarts_begun_ahead_count_for_nothing_after_one_that_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = victims(3, "lenet")
    attack = searching(Solver(iterations=60, restarts=4, patience=8, gain=0.1, tolerance=0.05))
    alone = one_by_one(attack, batch)
    assert any(found.stopped_by == "tolerance" for found in alone)
    assert len({found.iterations for found in alone}) > 1
    monkeypatch.setattr(lanes, "ahead", lambda solver: solver.restarts)
    assert_close(reconstruct_many(attack, batch), alone)


def test_a_restart_that_diverges_is_replaced_among_restarts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replacement is the attempt after the last one begun, as in a search of one after the other."""
    start = InversionProblem.start

    def poisoned(self: InversionProblem, attempt: int) -> Candidate:
        found = start(self, attempt)
        if attempt == 1:
            found.inputs.detach().fill_(torch.nan)
        return found

    attack, batch = searching(Solver(iterations=20, restarts=3)), victims(2, "lenet")
    monkeypatch.setattr(InversionProblem, "start", poisoned)
    alone = one_by_one(attack, batch)
    assert [found.iterations for found in alone] == [20 * 3 + 1] * 2
    assert_close(reconstruct_many(attack, batch), alone)


def test_an_attack_without_a_restart_is_refused() -> None:
    with pytest.raises(FedsimError, match=r"restarts = 0.*1 or more"):
        ATTACKS.create("inverting_gradients", restarts=0)

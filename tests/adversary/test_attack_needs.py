"""What attacks ask for is checked before they start, in sentences that name the remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import clothes, overhear_gradient, overhear_model

from adversary import ATTACKS, Needs, check
from adversary.inversion import Inversion
from fedsim.errors import FedsimError
from fedsim.protocol import TrainingPlan

FEDAVG = TrainingPlan(algorithm="fedavg", batch_size=4, local_epochs=2)
FEDSGD = TrainingPlan(algorithm="fedsgd")


def test_nothing_is_unmet_where_an_attack_asks_for_nothing() -> None:
    assert Needs().unmet(FEDAVG, 100, "model", frozenset()) == []
    assert Needs().unmet(None, 1, "gradient", frozenset()) == []


@pytest.mark.parametrize(
    ("needs", "plan", "examples", "kind", "count", "parts"),
    [
        (
            Needs(kinds=frozenset({"gradient"})),
            FEDAVG,
            8,
            "model",
            1,
            ["return a gradient", "return a model", "fedsgd"],
        ),
        (Needs(max_examples=1), FEDSGD, 8, "gradient", 1, ["at most 1 example,", "rests on 8", "batch_size"]),
        (Needs(single_step=True), FEDAVG, 8, "model", 1, ["one local step", "orders 4", "local_steps = 1"]),
        (Needs(single_step=True), None, 8, "model", 1, ["no training plan", "to_config"]),
        (Needs(grants=frozenset({"labels"})), FEDSGD, 8, "gradient", 1, ["know the labels", "withholds", "Grant"]),
        (Needs(observations=2), FEDSGD, 8, "gradient", 3, ["at most 2 observations", "3 were given", "Give fewer"]),
    ],
)
def test_each_unmet_need_is_a_sentence_with_need_finding_and_remedy(
    needs: Needs, plan: TrainingPlan | None, examples: int, kind: str, count: int, parts: list[str]
) -> None:
    sentences = needs.unmet(plan, examples, kind, frozenset(), count)  # type: ignore[arg-type]
    assert len(sentences) == 1
    assert sentences[0].endswith(".")
    for part in parts:
        assert part in sentences[0]


def test_needs_are_met_by_grants_single_steps_and_gradients() -> None:
    needs = Needs(single_step=True, grants=frozenset({"labels"}), max_examples=8)
    assert needs.unmet(replace(FEDAVG, local_steps=1), 8, "model", frozenset({"labels"})) == []
    assert needs.unmet(None, 8, "gradient", frozenset({"labels", "batch_order"})) == []


def test_all_unmet_needs_are_named_at_once() -> None:
    needs = Needs(kinds=frozenset({"gradient"}), max_examples=1, grants=frozenset({"labels"}))
    assert len(needs.unmet(FEDAVG, 8, "model", frozenset(), 2)) == 4


def test_an_attack_refuses_what_it_cannot_use() -> None:
    victim = overhear_gradient(*clothes([0, 1]))
    with pytest.raises(FedsimError, match="at most 1 example, but this one rests on 2"):
        ATTACKS.create("idlg").reconstruct([victim.observation], victim.knowledge, seed=0)
    with pytest.raises(FedsimError, match="given no observation"):
        ATTACKS.create("dlg").reconstruct([], victim.knowledge, seed=0)
    trained = overhear_model(*clothes([0, 1, 2]), TrainingPlan(batch_size=1))
    with pytest.raises(FedsimError, match="orders 3"):
        ATTACKS.create("dlg").reconstruct([trained.observation], trained.knowledge, seed=0)


def test_given_labels_must_be_granted_and_must_be_as_many_as_the_examples() -> None:
    victim = overhear_gradient(*clothes([0, 1]))
    attack = ATTACKS.create("inverting_gradients", labels="given")
    assert attack.needs.grants == {"labels"}
    with pytest.raises(FedsimError, match="know the labels"):
        check(attack, [victim.observation], victim.knowledge)
    with pytest.raises(FedsimError, match="3 entries, but the victim used 2"):
        check(attack, [victim.observation], replace(victim.knowledge, labels=torch.tensor([1, 2, 3])))
    check(attack, [victim.observation], replace(victim.knowledge, labels=victim.labels))


def test_observations_of_different_victims_are_refused() -> None:
    victim = overhear_gradient(*clothes([0]))
    other = replace(victim.observation, client=1)
    with pytest.raises(FedsimError, match="differ in client"):
        check(ATTACKS.create("dlg"), [victim.observation, other], victim.knowledge)


def test_a_network_that_is_not_the_observed_one_is_named() -> None:
    victim = overhear_gradient(*clothes([0]))
    other = overhear_gradient(*clothes([0]), model="cnn")
    with pytest.raises(FedsimError, match=r"Knowledge\.model"):
        ATTACKS.create("dlg").reconstruct([victim.observation], other.knowledge, seed=0)


def test_parameters_of_attacks_are_checked_and_coerced() -> None:
    attack = ATTACKS.create("inverting_gradients", iterations=7, total_variation=1)
    assert isinstance(attack, Inversion)
    assert attack.solver.iterations == 7
    with pytest.raises(FedsimError, match="iterations"):
        ATTACKS.create("dlg", iteration=7)
    with pytest.raises(FedsimError, match="labels"):
        ATTACKS.create("inverting_gradients", labels="guess")

"""Label recovery on real images: exact for one sample, near exact for batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from overheard import clothes, overhear_gradient, overhear_model, trained
from torch import Tensor, nn

from adversary import labels as rules
from adversary.network import build
from fedsim import models, seeding
from fedsim.data import load
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, TrainingPlan

TEST = load("fashion_mnist_small").test


def evidence(observation: Observation, knowledge: Knowledge) -> rules.Evidence:
    return rules.Evidence.of(observation, knowledge, build(knowledge, "eval", "cpu"), seeding.generator(0, "labels"))


def accuracy(found: Tensor, truth: Tensor) -> float:
    """One minus half the sum of differences of counts, over the batch (attacks.md, section 12)."""
    n, m = (torch.bincount(labels, minlength=10) for labels in (truth, found))
    return 1 - (n - m).abs().sum().item() / (2 * len(truth))


def mean_accuracy(rule: rules.LabelRule, batches: list[list[int]], network: nn.Module | None) -> float:
    total = 0.0
    for seed, positions in enumerate(batches):
        victim = overhear_gradient(*clothes(positions), model="cnn", network=network, seed=seed)
        found = rule(evidence(victim.observation, victim.knowledge))
        assert len(found) == len(positions)
        total += accuracy(found, victim.labels)
    return total / len(batches)


def draw(batches: int, size: int, classes: int = 10) -> list[list[int]]:
    """Random batches, of few classes where duplicates are wanted."""
    draws = torch.Generator().manual_seed(size)
    found = []
    for _ in range(batches):
        allowed = torch.randperm(10, generator=draws)[:classes]
        pool = torch.isin(TEST.labels, allowed).nonzero().flatten()
        found.append(pool[torch.randperm(len(pool), generator=draws)[:size]].tolist())
    return found


def unique(batches: int, size: int) -> list[list[int]]:
    """Random batches in which no class occurs twice."""
    draws = torch.Generator().manual_seed(1)
    found = []
    for _ in range(batches):
        chosen = torch.randperm(10, generator=draws)[:size].tolist()
        pools = [(TEST.labels == label).nonzero().flatten() for label in chosen]
        found.append([int(pool[torch.randint(len(pool), (1,), generator=draws)]) for pool in pools])
    return found


@pytest.fixture(scope="module")
def learned() -> nn.Module:
    """A cnn that has learned for 5 steps."""
    return trained(models.build("cnn", (1, 28, 28), 10), 5, 1e-3).eval()


@pytest.mark.parametrize("rule", [rules.idlg, rules.counts, rules.bias_corrected], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_the_label_of_one_sample_is_always_found(rule: rules.LabelRule, fresh: bool, learned: nn.Module) -> None:
    """200 random samples each; ``counts`` too, though its estimate of the outputs is far off when trained."""
    assert mean_accuracy(rule, draw(200, 1), None if fresh else learned) == 1.0


def test_the_label_of_one_sample_is_found_where_the_network_is_already_sure() -> None:
    """The gradient of a sample with p_y near 1 is tiny, and noise says nothing about such outputs."""
    sure = trained(models.build("cnn", (1, 28, 28), 10), 150, 3e-3).eval()
    with torch.no_grad():
        p = sure(TEST.images[:400].float() / 255).softmax(dim=1)
    positions = (p.max(dim=1).values > 0.99).nonzero().flatten()[:20].tolist()
    assert len(positions) == 20
    assert mean_accuracy(rules.counts, [[i] for i in positions], sure) == 1.0


def test_the_row_sums_serve_where_there_is_no_bias() -> None:
    victim = overhear_gradient(*clothes([3]), model="cnn")
    full = evidence(victim.observation, victim.knowledge)
    name = full.last_layer()[0]
    without = replace(full, gradient={key: g for key, g in full.gradient.items() if key != f"{name}.bias"})
    assert without.bias_gradient() is None
    assert rules.idlg(without).tolist() == victim.labels.tolist()
    assert rules.counts(without).tolist() == victim.labels.tolist()


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_rules_for_batches_follow_the_published_pattern(fresh: bool, learned: nn.Module) -> None:
    """Counts are near exact everywhere; the greedy rules lose on duplicates, most at B above the classes."""
    network = None if fresh else learned
    few, repeated, many = unique(20, 8), draw(20, 8, classes=3), draw(20, 32, classes=6)
    assert mean_accuracy(rules.counts, few, network) >= 0.95
    assert mean_accuracy(rules.bias_corrected, few, network) >= 0.95
    assert mean_accuracy(rules.counts, repeated, network) >= 0.9
    assert mean_accuracy(rules.counts, many, network) >= 0.9
    assert mean_accuracy(rules.yin, repeated, network) <= 0.75
    assert mean_accuracy(rules.bias_corrected, many, network) <= mean_accuracy(rules.counts, many, network) - 0.1


@pytest.mark.parametrize("plan", [TrainingPlan(batch_size=4, local_epochs=2, learning_rate=0.02, mode="eval")])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_counts_read_an_update_of_several_local_steps(plan: TrainingPlan, momentum: float) -> None:
    found = []
    for positions in draw(5, 16, classes=4):
        victim = overhear_model(*clothes(positions), replace(plan, momentum=momentum))
        found.append(accuracy(rules.counts(evidence(victim.observation, victim.knowledge)), victim.labels))
    assert sum(found) / len(found) >= 0.9


def test_without_a_plan_the_scale_is_unknown_and_a_rule_without_scale_serves() -> None:
    victim = overhear_model(*clothes([0, 1]), TrainingPlan(batch_size=None, learning_rate=0.02, mode="eval"))
    unplanned = evidence(replace(victim.observation, plan=None), victim.knowledge)
    assert rules.counts(unplanned).tolist() == rules.bias_corrected(unplanned).tolist()
    assert rules.counts(unplanned).tolist() == victim.labels.sort().values.tolist()


def test_rounded_counts_add_up_and_respect_what_is_certain() -> None:
    draws = torch.Generator().manual_seed(0)
    for total in (1, 7, 40):
        for _ in range(50):
            estimate = total * torch.randn(10, generator=draws)
            least = torch.zeros(10, dtype=torch.int64)
            least[int(torch.randint(10, (1,), generator=draws))] = 1
            found = rules.round_counts(estimate, least, total)
            assert found.sum().item() == total
            assert (found >= least).all()
    exact = torch.tensor([2, 0, 5])
    assert torch.equal(rules.round_counts(exact + 0.3, torch.zeros(3, dtype=torch.int64), 7), exact)


def test_a_rule_for_one_label_refuses_a_batch_and_given_labels_must_be_granted() -> None:
    victim = overhear_gradient(*clothes([0, 1]))
    found = evidence(victim.observation, victim.knowledge)
    with pytest.raises(FedsimError, match="counts"):
        rules.idlg(found)
    with pytest.raises(FedsimError, match="Grant 'labels'"):
        rules.given(found)
    granted = replace(victim.knowledge, labels=victim.labels)
    assert rules.given(evidence(victim.observation, granted)).tolist() == victim.labels.tolist()


def test_a_network_without_a_linear_layer_is_refused() -> None:
    victim = overhear_gradient(*clothes([0]))
    wrong = replace(victim.knowledge, classes=11)
    with pytest.raises(FedsimError, match="no linear layer with 11 outputs"):
        rules.idlg(evidence(victim.observation, wrong))

"""Label rules against closed forms: gradients of a last layer written down by hand, for which the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from adversary import labels as rules
from adversary.labels.certain import certain_counts
from adversary.labels.confidences import features_of_classes
from adversary.labels.greedy import greedy
from adversary.labels.noise import outputs_on_noise
from adversary.labels.path import path_positions
from adversary.network import build
from fedsim import seeding
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, TrainingPlan

CLASSES, SHAPE = 10, (1, 4, 5)
FEATURES = 20
LABELS = torch.tensor([0, 0, 0, 2, 3, 3, 5, 9])
"""Repeated labels and absent classes."""

RECOVERING = {name: rule for name, rule in rules.LABEL_RULES.items() if name not in {"given", "optimised"}}
FOR_BATCHES = {name: rule for name, rule in RECOVERING.items() if name not in {"idlg", "inner_products"}}
COUNTING = ["counts", "counts_bias", "dimitrov", "class_features", "ilrg", "rlu"]


def layer(weight: Tensor, bias: Tensor | None) -> Callable[[], nn.Module]:
    """A network that is nothing but a last layer: its features are the pixels."""

    def make() -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None))
        with torch.no_grad():
            network[1].weight.copy_(weight)
            if bias is not None:
                network[1].bias.copy_(bias)
        return network

    return make


def evidence(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, plan: TrainingPlan | None = None
) -> rules.Evidence:
    """Of ``grad W = (p - e_y)^T a / B`` and ``grad b = mean (p - e_y)``, or of SGD steps over the whole batch."""
    make = layer(weight, bias)
    sent = {name: tensor.detach().clone() for name, tensor in make().state_dict().items()}
    w, b = weight.clone(), torch.zeros(len(weight)) if bias is None else bias.clone()
    for _ in range(plan.local_epochs if plan else 1):
        error = (features @ w.T + b).softmax(dim=1) - nn.functional.one_hot(labels, CLASSES)
        gradients = {"1.weight": error.T @ features / len(labels), "1.bias": error.mean(dim=0)}
        if plan:
            w, b = w - plan.learning_rate * gradients["1.weight"], b - plan.learning_rate * gradients["1.bias"]
    received = {"1.weight": w, "1.bias": b} if plan else gradients
    received = {name: received[name] for name in sent}
    observation = Observation(
        1, 0, sent, received, "model" if plan else "gradient", len(labels), plan or TrainingPlan(algorithm="fedsgd")
    )
    knowledge = Knowledge(make, SHAPE, CLASSES)
    return rules.Evidence.of(observation, knowledge, build(knowledge, "eval", "cpu"), seeding.generator(0, "labels"))


def draw(samples: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features not negative, [samples, FEATURES], a weight and a bias."""
    draws = torch.Generator().manual_seed(seed)
    features = torch.rand(samples, FEATURES, generator=draws)
    return features, scale * torch.randn(CLASSES, FEATURES, generator=draws), torch.randn(CLASSES, generator=draws)


@pytest.mark.parametrize("rule", RECOVERING.values(), ids=RECOVERING.keys())
def test_labels_number_as_the_samples_do_and_ascend(rule: rules.LabelRule) -> None:
    for samples in (1,) if rule in (rules.idlg, rules.inner_products) else (1, 5, 33):
        features, weight, bias = draw(samples, seed=samples)
        labels = torch.randint(CLASSES, (samples,), generator=torch.Generator().manual_seed(samples))
        found = rule(evidence(features, labels, weight, bias))
        assert found.dtype == torch.int64
        assert found.shape == (samples,)
        assert torch.equal(found, found.sort().values)


@pytest.mark.parametrize(
    "name", ["idlg", "inner_products", "yin", "ggl", "analytic", "llg", "bias_corrected", "counts"]
)
def test_one_sample_is_read_exactly(name: str) -> None:
    for seed in range(20):
        features, weight, bias = draw(1, seed)
        label = torch.tensor([seed % CLASSES])
        assert torch.equal(rules.LABEL_RULES[name](evidence(features, label, weight, bias)), label)


def test_signed_features_fool_the_row_sums_and_not_the_inner_products() -> None:
    """With features that sum to less than 0 the row of the label has the one positive sum."""
    features, weight, _ = draw(1)
    label = torch.tensor([4])
    found = evidence(-features, label, weight, None)
    assert found.weight_gradient().sum(dim=1)[4] > 0
    assert rules.idlg(found).item() != 4
    assert rules.inner_products(found).item() == 4
    assert rules.rlg(found).item() == 4


@pytest.mark.parametrize("name", ["counts", "counts_bias"])
def test_counts_are_exact_where_the_outputs_are_known(name: str) -> None:
    """With W = 0 every input has the outputs softmax(b), noise too: n = B (p - grad b) to the last sample."""
    features, weight, bias = draw(len(LABELS))
    found = rules.LABEL_RULES[name](evidence(features, LABELS, 0 * weight, bias))
    assert torch.equal(found, LABELS)


@pytest.mark.parametrize("name", ["dimitrov", "llg_star"])
def test_row_sums_are_exact_where_outputs_and_feature_sums_are_known(name: str) -> None:
    """With W = 0 and b = 0 outputs are 1 / C; the features' sum is made that of the noise images."""
    features, weight, bias = draw(len(LABELS))
    blank = evidence(features, LABELS, 0 * weight, 0 * bias)
    target = outputs_on_noise(blank).feature_sum()
    features = features / features.sum(dim=1, keepdim=True) * target
    found = rules.LABEL_RULES[name](evidence(features, LABELS, 0 * weight, 0 * bias))
    assert torch.equal(found, LABELS)


@pytest.mark.parametrize("name", ["ilrg", "rlu", "class_features"])
def test_features_read_off_the_gradient_are_exact_where_all_samples_share_them(name: str) -> None:
    """``grad W_c / grad b_c`` is then the feature, whatever the weights; noise says nothing of such a layer."""
    features, weight, bias = draw(1, scale=0.3)
    given = evidence(features.expand(len(LABELS), -1), LABELS, weight, bias)
    assert torch.equal(rules.LABEL_RULES[name](given), LABELS)
    quotient = features_of_classes(given.weight_gradient(), given.bias_gradient())
    assert torch.allclose(quotient.float(), features.expand(CLASSES, -1), rtol=1e-4, atol=1e-4)


def test_class_features_are_found_where_samples_of_a_class_look_alike() -> None:
    """Outputs that differ by class: neither noise nor the quotient of gradients gives them, iteration does."""
    right = dict.fromkeys(("class_features", "counts_bias", "ilrg"), 0)
    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        features, weight, bias = draw(CLASSES, seed, scale=0.7)
        labels = torch.multinomial(torch.ones(4), 40, replacement=True, generator=draws).mul(2).sort().values
        found = evidence(features[labels], labels, weight, bias)
        for name in right:
            right[name] += int(_overlap(rules.LABEL_RULES[name](found), labels))
    assert right["class_features"] >= 0.97 * 400
    assert right["class_features"] > max(right["counts_bias"], right["ilrg"])


def test_rank_decides_what_linear_programs_can_tell() -> None:
    """Below C - 1 samples exactly the classes present are found; from there on every class is."""
    features, weight, bias = draw(6, scale=0.3)
    labels = torch.tensor([1, 1, 4, 4, 6, 8])
    signed = 2 * features - 1
    assert set(rules.rlg(evidence(signed, labels, weight, bias)).tolist()) >= {1, 4, 6, 8}
    few = torch.tensor([1, 4, 6])
    assert torch.equal(rules.rlg(evidence(signed[:3], few, weight, bias)), few)
    many, weight, bias = draw(40, scale=0.3)
    assert len(set(rules.rlg(evidence(many, torch.arange(40) % 3, weight, bias)).tolist())) == CLASSES


def test_classes_with_a_negative_entry_are_there_and_others_can_hide() -> None:
    """A class goes unseen once its share is below the mean output: here p_0 = 0.9 hides one sample of two."""
    features, weight, _ = draw(2)
    bias = torch.zeros(CLASSES)
    bias[0] = float(torch.tensor(9.0 * 0.9 / 0.1).log())
    found = rules.analytic(evidence(features, torch.tensor([0, 7]), 0 * weight, bias))
    assert found.tolist() == [7, 7]


def test_greedy_rules_fail_above_the_classes_where_counts_do_not() -> None:
    """Of 60 samples, 50 of one class: the impact is taken from the negative entries alone and comes out too small."""
    labels = torch.cat([torch.full((50,), 3), torch.arange(10)])
    features, weight, bias = draw(60)
    given = evidence(features, labels.sort().values, 0 * weight, 0 * bias)
    assert torch.equal(rules.counts(given), labels.sort().values)
    for rule in (rules.bias_corrected, rules.analytic, rules.yin, rules.ggl):
        assert _overlap(rule(given), labels) < 60


@pytest.mark.parametrize("rule", FOR_BATCHES.values(), ids=FOR_BATCHES.keys())
def test_renaming_classes_renames_the_labels(rule: rules.LabelRule) -> None:
    features, weight, bias = draw(len(LABELS), scale=0.3)
    new = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(1))  # class c becomes new[c]
    renamed_weight, renamed_bias = torch.empty_like(weight), torch.empty_like(bias)
    renamed_weight[new], renamed_bias[new] = weight, bias
    found = rule(evidence(features, LABELS, weight, bias))
    renamed = rule(evidence(features, new[LABELS], renamed_weight, renamed_bias))
    assert torch.equal(renamed, new[found].sort().values)


@pytest.mark.parametrize("name", ["analytic", "yin", "ggl", "llg", "bias_corrected", "rlg"])
def test_rules_without_scale_read_the_same_from_any_multiple(name: str) -> None:
    given = evidence(draw(len(LABELS))[0], LABELS, *draw(len(LABELS), scale=0.3)[1:])
    scaled = replace(given, gradient={key: 1000 * g for key, g in given.gradient.items()})
    assert torch.equal(rules.LABEL_RULES[name](given), rules.LABEL_RULES[name](scaled))


@pytest.mark.parametrize("name", COUNTING)
def test_where_the_scale_is_unknown_counting_rules_take_one_that_needs_none(name: str) -> None:
    plan = TrainingPlan(batch_size=None, learning_rate=0.01, mode="eval")
    given = evidence(draw(len(LABELS))[0], LABELS, *draw(len(LABELS), scale=0.3)[1:], plan)
    unplanned = replace(given, observation=replace(given.observation, plan=None))
    fallback = rules.llg if name == "dimitrov" else rules.bias_corrected
    assert torch.equal(rules.LABEL_RULES[name](unplanned), fallback(unplanned))


@pytest.mark.parametrize("name", ["counts_bias", "ilrg", "rlu", "class_features"])
def test_rules_that_read_the_bias_ask_for_one(name: str) -> None:
    features, weight, _ = draw(len(LABELS))
    with pytest.raises(FedsimError, match="reads the bias of the last layer"):
        rules.LABEL_RULES[name](evidence(features, LABELS, weight, None))


@pytest.mark.parametrize("name", ["counts", "counts_bias", "rlu", "class_features"])
def test_the_path_matters_where_training_moves_the_outputs(name: str) -> None:
    """20 full-batch steps that move the outputs far: exact along the path, for features all alike, at its start not."""
    weight = torch.zeros(CLASSES, FEATURES)
    plan = TrainingPlan(batch_size=None, local_epochs=20, learning_rate=0.1, mode="eval")
    shared = torch.full((len(LABELS), FEATURES), 0.5)
    given = evidence(shared, LABELS, weight, torch.zeros(CLASSES), plan)
    at_the_start = len(LABELS) * (1 / CLASSES - given.bias_gradient())
    wrong = rules.labels_from_counts(rules.round_counts(at_the_start, torch.zeros(CLASSES).long(), len(LABELS)))
    assert not torch.equal(wrong, LABELS)
    assert torch.equal(rules.LABEL_RULES[name](given), LABELS)


def test_positions_on_the_path_are_where_steps_begin() -> None:
    features, weight, bias = draw(len(LABELS))
    for steps in (1, 3, 5, 12):
        plan = TrainingPlan(batch_size=None, local_epochs=steps, learning_rate=0.01, mode="eval")
        positions = path_positions(evidence(features, LABELS, weight, bias, plan))
        assert sum(positions) / len(positions) == pytest.approx((steps - 1) / (2 * steps))
        if steps <= 5:
            assert positions == pytest.approx([step / steps for step in range(steps)])


@pytest.mark.parametrize("rule", FOR_BATCHES.values(), ids=FOR_BATCHES.keys())
def test_a_broken_update_stops_no_rule(rule: rules.LabelRule) -> None:
    given = evidence(draw(len(LABELS))[0], LABELS, *draw(len(LABELS))[1:])
    broken = replace(given, gradient={key: torch.full_like(g, float("nan")) for key, g in given.gradient.items()})
    found = rule(broken)
    assert found.shape == LABELS.shape
    assert ((found >= 0) & (found < CLASSES)).all()


def _overlap(found: Tensor, truth: Tensor) -> int:
    n, m = (torch.bincount(labels, minlength=CLASSES) for labels in (truth, found))
    return int(torch.minimum(n, m).sum())


def test_greedy_taking_recovers_counts_from_exact_impact_and_offset() -> None:
    draws = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(4, (CLASSES,), generator=draws)
        offset = torch.rand(CLASSES, generator=draws)
        found = greedy(-0.3 * counts + offset, torch.tensor(-0.3), int(counts.sum()), offset)
        assert torch.equal(torch.bincount(found, minlength=CLASSES), counts)


def test_the_factor_of_llg_star_makes_up_for_the_share_of_the_own_class() -> None:
    """11 of one class and one of each other, outputs 1 / C: without 1 + 1 / C a twelfth would be taken."""
    labels = torch.cat([torch.zeros(11).long(), torch.arange(1, CLASSES)])
    _, weight, bias = draw(1)
    target = outputs_on_noise(evidence(*draw(1)[:1], labels[:1], 0 * weight, 0 * bias)).feature_sum()
    features = torch.full((len(labels), FEATURES), float(target) / FEATURES)
    assert torch.equal(rules.llg_star(evidence(features, labels, 0 * weight, 0 * bias)), labels)


def test_llg_and_bias_corrected_differ_by_the_factor_alone_where_samples_share_features() -> None:
    differ = 0
    for seed in range(20):
        features, weight, bias = draw(1, seed, scale=0.3)
        labels = torch.randint(CLASSES, (30,), generator=torch.Generator().manual_seed(seed))
        given = evidence(features.expand(30, -1), labels, weight, bias)
        signal = given.bias_gradient()
        impact = signal[signal < 0].sum() / 30
        assert torch.equal(rules.llg(given), greedy(signal, impact * (1 + 1 / CLASSES), 30))
        differ += not torch.equal(rules.llg(given), rules.bias_corrected(given))
    assert differ


def test_certain_counts_never_exceed_the_truth_and_reach_it_where_outputs_are_low() -> None:
    for seed in range(50):
        features, weight, bias = draw(len(LABELS), seed)
        least = certain_counts(evidence(features, LABELS, weight, bias))
        assert (least <= torch.bincount(LABELS, minlength=CLASSES)).all()
        assert least.sum() > 0
    pair = torch.tensor([3, 3])
    features, weight, bias = draw(2)
    bias = torch.zeros(CLASSES)
    bias[3] = float(torch.tensor(9 * 0.4 / 0.6).log())  # p_3 = 0.4, n_3 >= 2 * 0.6
    assert certain_counts(evidence(features, pair, 0 * weight, bias))[3] == 2

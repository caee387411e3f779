"""The models of coalitions against Flower's aggregation, and scores computed side by side against one by one."""

from __future__ import annotations

import time

import pytest
import torch
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from games import PLAYERS
from torch import Tensor

from clients import training
from fedsim import models, seeding
from fedsim.arrays import from_record, to_record
from fedsim.data import Images
from fedsim.errors import FedsimError
from server.contribution import Coalitions, Remembered, Update, Validator, exact, one_round

NORMALISATION = ((0.3,), (0.4,))


def images(count: int, seed: int = 0) -> Images:
    draws = seeding.generator(seed, "images")
    pixels = torch.randint(256, (count, 1, 28, 28), generator=draws, dtype=torch.uint8)
    return Images(pixels, torch.randint(10, (count,), generator=draws), tuple("0123456789"))


def updates(before: dict[str, Tensor], players: list[object] = PLAYERS) -> dict[object, Update]:
    """Random changes of about a tenth of each array, and counters that grow."""
    found = {}
    for i, player in enumerate(players):
        draws = seeding.generator(i, "update")
        arrays = {
            name: 0.1 * torch.randn(w.shape, generator=draws) if w.is_floating_point() else torch.tensor(i + 3)
            for name, w in before.items()
        }
        found[player] = Update(arrays, 10 + 7 * i)
    return found


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_a_coalitions_model_is_what_flower_aggregates(name: str) -> None:
    given = {"width": 4} if name == "resnet20" else {}
    before = models.build(name, (1, 28, 28), 10, **given).state_dict()
    kept = {key: tensor.clone() for key, tensor in before.items()}
    sent = updates(before)
    coalitions = Coalitions(before, sent)
    chosen = frozenset(PLAYERS[1:4])
    replies = [
        RecordDict({
            "arrays": to_record({key: before[key] + change for key, change in sent[player].arrays.items()}),
            "metrics": MetricRecord({"num-examples": sent[player].examples}),
        })
        for player in PLAYERS if player in chosen
    ]  # fmt: skip
    aggregated = aggregate_arrayrecords(replies, "num-examples")
    found = coalitions.model(chosen)
    for key, expected in from_record(aggregated).items():
        assert found[key].dtype == before[key].dtype
        mean = expected.double() if before[key].is_floating_point() else expected.double().round()
        torch.testing.assert_close(found[key].double(), mean, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(coalitions.model(frozenset())[key], tensor) for key, tensor in before.items())
    assert all(torch.equal(before[key], tensor) for key, tensor in kept.items())


@pytest.mark.parametrize("name", ["lenet", "mlp", "resnet20"])
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_models_side_by_side_score_as_one_by_one(name: str, metric: str) -> None:
    given = {"width": 4} if name == "resnet20" else {}
    network = models.build(name, (1, 28, 28), 10, **given)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    data, sent = images(40), updates(before, PLAYERS[:4])
    coalitions = [frozenset(), *(frozenset(PLAYERS[:4]) - {player} for player in PLAYERS[:4])]
    alone = Validator(network, data, NORMALISATION, metric, at_once=1).utility(before, sent)
    together = Validator(network, data, NORMALISATION, metric, at_once=3).utility(before, sent)
    assert together.many(coalitions) == pytest.approx(alone.many(coalitions), rel=1e-4)
    assert alone.many(coalitions) == [alone(coalition) for coalition in coalitions]
    assert metric == "accuracy" or len(set(alone.many(coalitions))) == len(coalitions)
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in before.items())


def test_the_score_is_that_of_an_evaluation() -> None:
    network = models.build("lenet", (1, 28, 28), 10)
    before, data = dict(network.state_dict()), images(600)
    sent = updates(before)
    coalition = frozenset(PLAYERS[2:5])
    changed = models.build("lenet", (1, 28, 28), 10)
    changed.load_state_dict(Coalitions(before, sent).model(coalition))
    expected = training.evaluate(changed, data, NORMALISATION)
    found = {m: Validator(network, data, NORMALISATION, m).utility(before, sent)(coalition) for m in expected}  # type: ignore[arg-type]
    assert found == pytest.approx({"loss": -expected["loss"], "accuracy": expected["accuracy"]}, rel=1e-5)


def test_a_run_as_one_round_sums_its_updates() -> None:
    before = {"w": torch.zeros(2), "n": torch.tensor(5)}
    first = {"a": Update({"w": torch.tensor([1.0, 0.0]), "n": torch.tensor(1)}, 10)}
    second = {
        "a": Update({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(2)}, 30),
        "b": Update({"w": torch.tensor([4.0, 8.0]), "n": torch.tensor(4)}, 10),
    }
    found = Coalitions(before, one_round([first, second]))
    assert found.model(frozenset({"a"}))["w"].tolist() == [2, 2]
    both = found.model(frozenset({"a", "b"}))
    assert both["w"].tolist() == [0.75 * 2 + 0.25 * 4, 0.75 * 2 + 0.25 * 8]
    assert both["n"] == 8  # 5 + 0.75 * 3 + 0.25 * 4 = 8.25
    assert both["n"].dtype == torch.int64


def test_updates_that_do_not_fit_are_refused() -> None:
    before = {"w": torch.zeros(2)}
    with pytest.raises(FedsimError, match="examples of client a = 0"):
        Coalitions(before, {"a": Update(before, 0)})
    with pytest.raises(FedsimError, match="not those of the global model"):
        Coalitions(before, {"a": Update({"v": torch.zeros(2)}, 1)})
    with pytest.raises(FedsimError, match="sent no update"):
        Coalitions(before, {"a": Update(before, 1)}).model(frozenset({"b"}))


@pytest.mark.slow
def test_exact_values_of_ten_clients_take_less_than_a_minute() -> None:
    """LeNet on 1,000 images; with one thread, where two are allowed."""
    network = models.build("lenet", (1, 28, 28), 10)
    before = dict(network.state_dict())
    utility = Remembered(
        Validator(network, images(1_000), NORMALISATION).utility(before, updates(before, list(range(10))))
    )
    started = time.monotonic()
    found = exact(range(10), utility)
    assert time.monotonic() - started < 60
    assert found.evaluations == 1_024

"""FedAvg without Flower's detours is Flower's FedAvg, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fedsim.engines.simulated import identify
from server.fedavg import FedAvg


def replies(kind: str) -> list[Message]:
    """Three clients' replies to one message each: floats, counters and losses."""
    identify()
    draws = np.random.default_rng(0)
    found = []
    for client in range(3):
        arrays = ArrayRecord(
            {
                "weight": Array(draws.normal(size=(5, 3)).astype(np.float32)),
                "double": Array(draws.normal(size=4)),
                "counter": Array(np.array(7 + client)),
            }
        )
        numbers = {"num-examples": 3 + 4 * client, "train-loss": float(draws.normal()), "right": 2 * client}
        content = RecordDict({"metrics": MetricRecord(numbers), "arrays": arrays})
        if kind == "lists" or (kind == "one list" and client == 2):
            content["metrics"]["train-loss"] = [1.0 + client, 2.0]
        if kind == "other arrays" and client == 1:
            del content["arrays"]["double"]
        if kind == "no weight":
            del content["metrics"]["num-examples"]
        if kind == "two records":
            content["more"] = MetricRecord({"num-examples": 1})
        found.append(Message(content, reply_to=Message(RecordDict(), client, "train")))
    return found


@pytest.mark.parametrize("kind", ["plain", "lists"])
def test_same_bits_as_flowers(kind: str) -> None:
    (ours, numbers), (theirs, expected) = (
        made.aggregate_train(1, replies(kind)) for made in (FedAvg(), flower.FedAvg())
    )
    assert ours is not None
    assert theirs is not None
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        assert ours[name].numpy().tobytes() == array.numpy().tobytes()
    assert dict(numbers or {}) == dict(expected or {})


@pytest.mark.parametrize("kind", ["other arrays", "no weight", "two records", "one list"])
def test_what_flower_refuses_is_refused(kind: str) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011  (whatever Flower raises)
        flower.FedAvg().aggregate_train(1, replies(kind))
    with pytest.raises(type(expected.value)) as caught:
        FedAvg().aggregate_train(1, replies(kind))
    assert str(caught.value) == str(expected.value)


def test_nothing_from_nobody() -> None:
    assert FedAvg().aggregate_train(1, []) == flower.FedAvg().aggregate_train(1, [])

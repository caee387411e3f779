"""The wiretap around strategies that know nothing of fedsim, and around all of Flower's by name."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedsim.engines import LocalGrid
from fedsim.protocol import Observation
from fedsim.transcript import Transcript
from server import HonestButCurious

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A client of somebody else's app: adds its own number to the weights."""
    weights = message.content["arrays"].to_numpy_ndarrays()  # type: ignore[union-attr]
    number = int(context.node_config["partition-id"])
    content = RecordDict(
        {
            "arrays": ArrayRecord([w + number for w in weights]),
            "metrics": MetricRecord({"num-examples": number + 1}),
        }
    )
    return Message(content, reply_to=message)


def start(strategy: FedAvg | HonestButCurious) -> list[np.ndarray]:
    grid = LocalGrid(app, clients=4, workers=2)
    initial = ArrayRecord([np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(2, dtype=np.float32)])
    return strategy.start(grid, initial, num_rounds=3).arrays.to_numpy_ndarrays()


def test_it_overhears_what_clients_of_a_foreign_app_sent() -> None:
    heard: list[Observation] = []
    start(HonestButCurious(FedAvg(fraction_evaluate=0.0), heard.append))
    assert sorted((o.round, o.client) for o in heard) == [(r, c) for r in (1, 2, 3) for c in range(4)]
    for o in heard:
        assert (o.kind, o.examples, o.plan) == ("model", o.client + 1, None)
        for name in o.sent:
            assert torch.equal(o.received[name], o.sent[name] + o.client)


def test_it_leaves_a_foreign_app_as_it_was() -> None:
    plain, tapped = (
        start(FedAvg(fraction_evaluate=0.0)),
        start(HonestButCurious(FedAvg(fraction_evaluate=0.0), lambda _: None)),
    )
    for one, other in zip(plain, tapped, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # Flower samples in an order of its own


def test_a_transcript_is_an_observer(tmp_path: pytest.TempPathFactory) -> None:
    transcript = Transcript.create(tmp_path)  # type: ignore[arg-type]
    start(HonestButCurious(FedAvg(fraction_evaluate=0.0), transcript.append))
    assert len(Transcript.open(tmp_path)) == 12  # type: ignore[arg-type]

"""The moving average of the global model: its closed form, and in a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from experiments import Experiment, checkpoint, run
from experiments.checkpoint import Checkpoint
from fedsim.arrays import to_record
from server.averaging import Averaging
from server.evaluation import central_evaluation
from server.fedavg import FedAvg
from server.state import restore, snapshot


class Counting(FedAvg):
    """Gives the number of the round as the global model."""

    def aggregate_train(
        self,
        server_round: int,
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return to_record(model(server_round)), None


def model(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), float(value)), "seen": torch.tensor(round(value))}


def test_the_average_is_the_weighted_sum_of_all_models() -> None:
    rounds, decay = 30, 0.6
    made = Averaging(Counting(), decay, model(0.0))
    for number in range(1, rounds + 1):
        made.aggregate_train(number, [])
    shares = [min(decay, (1 + n) / (10 + n)) for n in range(1, rounds + 1)]
    weights = [(1 - shares[n]) * float(torch.tensor(shares[n + 1 :]).prod()) for n in range(rounds)]
    expected = sum(weight * (n + 1) for n, weight in enumerate(weights))
    assert made.average["weight"].flatten().tolist() == pytest.approx([expected] * 6, rel=1e-5)
    assert made.average["seen"].equal(torch.tensor(rounds))
    # Long after the start it lags by d / (1 - d) rounds.
    assert expected == pytest.approx(rounds - decay / (1 - decay), abs=1e-3)


def test_it_goes_on_from_what_was_saved() -> None:
    whole, cut = (Averaging(Counting(), 0.9, model(0.0)) for _ in range(2))
    for number in range(1, 6):
        whole.aggregate_train(number, [])
    for number in range(1, 4):
        cut.aggregate_train(number, [])
    resumed = Averaging(Counting(), 0.9, model(0.0))
    restore(resumed, snapshot(cut))
    for number in (4, 5):
        resumed.aggregate_train(number, [])
    assert resumed.average["weight"].equal(whole.average["weight"])


TABLES: dict[str, Any] = {
    "data": {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 4},
    "model": {"name": "lenet"},
    "training": {"rounds": 4, "learning_rate": 0.5, "ema": 0.5},
}


def test_a_run_evaluates_the_average_and_trains_as_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Experiment.of(TABLES)
    whole = run(one, tmp_path / "whole")
    plain = run(Experiment.of(TABLES | {"training": TABLES["training"] | {"ema": 0.0}}), tmp_path / "plain")
    assert all(tensor.equal(plain.final_arrays[name]) for name, tensor in whole.final_arrays.items())
    assert not (plain.folder / "average.safetensors").exists()
    average = safetensors.torch.load_file(whole.folder / "average.safetensors")
    assert not any(tensor.equal(whole.final_arrays[name]) for name, tensor in average.items())
    found = central_evaluation(one.model(), one.test, one.normalisation)(4, to_record(average))
    assert whole.metrics[-1]["test_loss"] == found["test-loss"] != plain.metrics[-1]["test_loss"]

    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        write(folder, state)
        if state.round == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        run(one, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    resumed = run(one, tmp_path / "cut", resume=True)
    for name in ("average.safetensors", "model.safetensors"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()

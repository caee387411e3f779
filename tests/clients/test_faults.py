"""Injected faults: seeded, booked with their reason, and survived."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clients.faults import Faults
from experiments import Experiment, run
from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

WAYS = {
    "dropout": "dropped out",
    "crash": "crashed (injected)",
    "nan": "NaN or infinite",
    "infinite": "NaN or infinite",
    "shape": "has shape",
    "missing": "sent other arrays",
    "lie": "can have used",
    "no_examples": "claims 0 examples",
}


def test_who_fails_is_seeded_and_as_often_as_said() -> None:
    faults = Faults(dropout=0.2, nan=0.1)
    found = [faults.of(3, client, round) for client in range(100) for round in range(50)]
    assert found == [faults.of(3, client, round) for client in range(100) for round in range(50)]
    counts = Counter(found)
    assert abs(counts["dropout"] / 5000 - 0.2) < 0.02  # 3.5 standard deviations
    assert abs(counts["nan"] / 5000 - 0.1) < 0.02


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
@pytest.mark.parametrize("way", WAYS)
def test_each_fault_is_booked_with_its_reason_and_never_aggregated(tmp_path: Path, way: str, algorithm: str) -> None:
    one = Experiment.of({
        "data": {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 10},
        "model": {"name": "lenet"},
        "training": {"algorithm": algorithm, "rounds": 3, "batch_size": 10, "learning_rate": 0.1, "min_share": 0.1},
        "faults": {way: 0.3},
    })  # fmt: skip
    result = run(one, tmp_path / "run")
    expected = {(r, c) for r in (1, 2, 3) for c in range(10) if Faults(**{way: 0.3}).of(0, c, r)}
    booked = RunFolder.open(result.folder).read_clients()
    assert {(r["round"], r["client"]) for r in booked if r["failure"]} == expected
    assert expected
    assert all(WAYS[way] in record["failure"] for record in booked if record["failure"])
    assert all(bool(tensor.isfinite().all()) for tensor in result.final_arrays.values())


def test_too_few_good_answers_stop_the_run_with_the_reasons(tmp_path: Path) -> None:
    one = Experiment.of({
        "data": {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 10},
        "model": {"name": "lenet"},
        "training": {"rounds": 3, "batch_size": 10},
        "faults": {"crash": 1.0},
    })  # fmt: skip
    with pytest.raises(FedsimError, match=r"Round 1: 0 of 10 clients answered well.*crashed \(injected\).*min_share"):
        run(one, tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dropout": 1.5}, ["faults.dropout = 1.5", "less than or equal to 1"]),
        ({"dropout": 0.7, "nan": 0.7}, ["faults", "add up to 1.4"]),
        ({"dropuot": 0.1}, ["faults.dropuot", "'dropout'"]),
    ],
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        Experiment.of({"faults": wrong})
    for word in words:
        assert word in str(error.value)

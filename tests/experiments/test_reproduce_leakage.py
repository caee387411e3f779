"""Leakage over a training: the same victims in each round, resumed as run, and a page that counts everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clients import training
from experiments.experiment import Experiment
from experiments.reproduce import leakage_over_training as leakage
from experiments.reproduce.leakage_page import table, write_page
from fedsim.protocol import Algorithm


def small(algorithm: Algorithm) -> dict[str, Any]:
    """A federation of the same make, of a data set that is always there, with small shards."""
    tables = leakage.configuration(algorithm, victims=1, rounds=2, iterations=3)
    tables["data"] |= {
        "name": "fashion_mnist_small",
        "clients": 4,
        "test_size": 50,
        "partition": {"name": "sizes", "sizes": [1, 4, 20, 20]},
    }
    return tables


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_victims_keep_their_images_and_a_second_call_changes_nothing(algorithm: Algorithm, tmp_path: Path) -> None:
    records = leakage.attacked(small(algorithm), tmp_path / "run")
    assert leakage.attacked(small(algorithm), tmp_path / "run") == records
    asked = [(name, round, client) for round in (1, 2) for name in leakage.ATTACKS[algorithm] for client in (0, 1)]
    assert [(r["attack"], r["round"], r["client"]) for r in records] == asked
    assert {(r["client"], r["examples"], r["mean_colour_psnr"]) for r in records if r["round"] == 1} == {
        (r["client"], r["examples"], r["mean_colour_psnr"]) for r in records if r["round"] == 2
    }
    write_page(tmp_path, "page", records)
    assert (tmp_path / "page.png").stat().st_size > 0


def test_accuracy_is_that_of_the_model_attacked(tmp_path: Path) -> None:
    tables = small("fedsgd")
    experiment = Experiment.of(tables)
    untrained = training.evaluate(experiment.model(), experiment.data.test, (experiment.data.mean, experiment.data.std))
    first = leakage.attacked(tables, tmp_path / "run")[0]
    assert first["round"] == 1
    assert first["test_accuracy"] == pytest.approx(untrained["accuracy"])


def test_failures_and_what_is_worse_than_grey_are_counted() -> None:
    common = {"round": 1, "attack": "dlg", "test_accuracy": 0.1, "baseline_psnr": 9.0, "ssim": 0.1, "seconds": 1.0}
    records = [
        {**common, "psnr": 20.0, "stopped_by": "iterations", "label_accuracy": 1.0},
        {**common, "psnr": 8.0, "stopped_by": "iterations", "label_accuracy": 0.5},
        {**common, "psnr": 9.0, "stopped_by": "failed: NaN", "label_accuracy": 0.0},
    ]
    row = table(records).splitlines()[-1].split(" | ")
    assert row[3].startswith("9.0 ")  # the median counts the failed one
    assert row[5:7] == ["2 of 3", "1"]
    assert row[8] == "50%"

"""Selectors that go by what clients contributed, in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import Experiment, run
from fedsim.errors import FedsimError


def tables(selector: str, **more: Any) -> dict[str, Any]:
    return {
        "data": {
            "name": "fashion_mnist_small",
            "train_size": 200,
            "test_size": 60,
            "clients": 6,
            "validation_size": 30,
        },
        "model": {"name": "mlp"},
        "training": {"rounds": 4, "batch_size": 20, "learning_rate": 0.2},
        "selection": {"name": selector, "clients_per_round": 2},
    } | more


def chosen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("selector", ["shapley", "s_fedavg", "greedyfed"])
def test_they_run_by_name_and_their_values_are_those_in_the_books(selector: str, tmp_path: Path) -> None:
    one = Experiment.of(tables(selector, contribution={"name": "exact"}))
    books = chosen(run(one, out=tmp_path / "one").folder)
    values = [row["value"] for row in books if row["value"] is not None]
    assert len(values) == 8
    assert len(set(values)) > 4
    other = Experiment.of(tables(selector, contribution={"name": "exact"}, engine={"workers": 2}))
    assert chosen(run(other, out=tmp_path / "two").folder) == books
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_without_values_they_are_refused_before_anything_starts() -> None:
    with pytest.raises(FedsimError, match=r"selection.name = 'greedyfed'.*\[contribution\]"):
        Experiment.of(tables("greedyfed")).check()

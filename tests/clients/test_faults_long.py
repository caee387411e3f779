"""Thirty rounds with a fifth of the clients failing: the run ends, the books are right, and it learns as well."""

from pathlib import Path
from typing import Any

import pytest

from clients.faults import Faults
from experiments import Experiment, run
from experiments.run import Result
from experiments.run_folder import RunFolder

ROUNDS, CLIENTS, SHARE = 30, 20, 0.2
WAYS = ["dropout", "straggle", "crash", "nan", "infinite", "shape", "missing", "lie", "no_examples"]

pytestmark = pytest.mark.slow


def faulty(folder: Path, faults: dict[str, Any] | None) -> Result:
    return run(
        Experiment.of({
            "data": {"name": "fashion_mnist_small", "clients": CLIENTS},
            "model": {"name": "lenet"},
            "training": {"rounds": ROUNDS, "batch_size": 10, "learning_rate": 0.1, "timeout": 1.0},
            "selection": {"clients_per_round": 10},
            "engine": {"workers": 2},
        } | ({"faults": faults} if faults else {})),
        folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Without faults, and with the clients that fail kept out: the same updates survive as with any fault."""
    folder = tmp_path_factory.mktemp("reference")
    return {"none": faulty(folder / "none", None), "dropout": faulty(folder / "dropout", {"dropout": SHARE})}


@pytest.mark.parametrize("way", WAYS)
def test_a_fifth_of_the_clients_fails(tmp_path: Path, reference: dict[str, Result], way: str) -> None:
    faults = {way: SHARE} | ({"straggle_seconds": 3600.0} if way == "straggle" else {})
    found = faulty(tmp_path / "run", faults)
    records = RunFolder.open(found.folder).read_clients()
    failed = {(record["round"], record["client"]) for record in records if record["failure"]}
    assert failed == {
        (record["round"], record["client"])
        for record in records
        if Faults(**{way: SHARE}).of(0, record["client"], record["round"])
    }
    assert 0.15 * ROUNDS * 10 < len(failed) < 0.25 * ROUNDS * 10
    dropout = reference["dropout"].final_arrays
    assert all(tensor.equal(dropout[name]) for name, tensor in found.final_arrays.items())
    accuracy, without = (result.metrics[-1]["test_accuracy"] for result in (found, reference["none"]))
    print(f"{way}: {len(failed)} failures, accuracy {accuracy:.3f}, without faults {without:.3f}")
    assert accuracy > 0.3
    assert abs(accuracy - without) < 0.03

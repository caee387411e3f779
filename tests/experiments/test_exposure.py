"""The exposure ledger: right against the truth, after a cut, after another attack, and on the page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import Experiment, checkpoint, run
from experiments.attacking import attack_run
from experiments.checkpoint import Checkpoint
from experiments.report import write_report
from experiments.report.exposure import distance, guessed_labels, ledger
from experiments.report.records import read_run
from experiments.report.story import rows
from experiments.run_folder import RunFolder

TABLES: dict[str, Any] = {
    "name": "exposed",
    "data": {
        "name": "fashion_mnist_small",
        "train_size": 300,
        "test_size": 80,
        "validation_size": 40,
        "clients": 8,
        "partition": {"name": "mavericks", "owned": [1]},
    },
    "model": {"name": "cnn", "width": 4, "activation": "gelu"},
    "training": {"algorithm": "fedsgd", "rounds": 4, "batch_size": 2, "learning_rate": 0.05},
    "selection": {"name": "fedemd", "clients_per_round": 3},
    "contribution": {"name": "exact"},
    "wiretap": {"record": True},
    "attacks": [
        {"name": "inverting_gradients", "rounds": "every 2", "clients": 2, "iterations": 15, "lpips": False},
    ],
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check(folder: Path) -> dict[int, dict[str, Any]]:
    """The ledger against what the other files say, counted anew; it is returned by client."""
    experiment = Experiment.load(folder / "experiment.toml")
    found = {record["client"]: record for record in lines(folder / "exposure.jsonl")}
    assert list(found) == list(range(8))
    labels = experiment.data.train.labels
    seen, attacks = lines(folder / "clients.jsonl"), lines(folder / "attacks.jsonl")
    whole = np.bincount(labels, minlength=10) / len(labels)
    for client, record in found.items():
        own = np.bincount(labels[experiment.shards[client]], minlength=10)
        assert record["examples"] == own.sum()
        assert record["distance"] == pytest.approx(np.abs(10 * own / own.sum() - 10 * whole).mean())
        rounds = [line for line in seen if line["client"] == client]
        assert record["chosen"] == record["appraised"] == len(rounds)
        assert all(line["distance"] == pytest.approx(record["distance"]) for line in rounds)
        if rounds:
            assert record["value_sum"] == pytest.approx(sum(line["value"] for line in rounds))
            assert record["value_mean"] == pytest.approx(np.mean([line["value"] for line in rounds]))
        victims = [line for line in attacks if line["client"] == client]
        assert record["attacks"] == len(victims)
        for key in ("psnr", "baseline_psnr", "mean_colour_psnr", "label_accuracy"):
            assert record[key] == max((line[key] for line in victims), default=None)
        assert record["image_psnr"] == max((one for line in victims for one in line["psnr_each"]), default=None)
        if victims:
            best = max(victims, key=lambda line: float(line["psnr"]))
            assert (record["round"], record["attack"]) == (best["round"], best["attack"])
    return found


def test_a_run_cut_off_has_the_ledger_of_one_that_was_not_and_an_attack_adds_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(Experiment.of(TABLES), tmp_path / "whole").folder
    write = checkpoint.write

    class Cut(Exception):  # noqa: N818
        """The power is gone."""

    def cut(folder: Path, state: Checkpoint) -> None:
        if state.round == 3:
            raise Cut
        write(folder, state)

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(Cut):
        run(Experiment.of(TABLES), tmp_path / "cut")
    write_report(tmp_path / "cut")
    assert sum(record["chosen"] for record in lines(tmp_path / "cut" / "exposure.jsonl")) == 9
    monkeypatch.setattr(checkpoint, "write", write)
    folder = run(Experiment.of(TABLES), tmp_path / "cut", resume=True).folder
    assert (folder / "exposure.jsonl").read_bytes() == (whole / "exposure.jsonl").read_bytes()
    before = check(folder)
    assert sum(record["attacks"] for record in before.values()) == 4
    assert sum(record["chosen"] for record in before.values()) == 12

    attack_run(folder, "dlg", ["iterations=5", "restarts=1", "lpips=false"], rounds=[1, 3], label="again")
    after = check(folder)
    assert sum(record["attacks"] for record in after.values()) == 10
    (folder / "exposure.jsonl").unlink()
    page = write_report(folder).read_text()
    assert check(folder) == after
    exposure = page[page.index('<h2 id="exposure">') :]
    dots = exposure[: exposure.index("</svg>")]
    assert dots.count("<title>client") == sum(record["attacks"] > 0 for record in after.values())
    assert "What was learned of each client" in page


def test_a_run_without_attacks_has_a_ledger_of_choices_and_values(tmp_path: Path) -> None:
    tables = TABLES | {"attacks": [], "wiretap": {}, "training": TABLES["training"] | {"rounds": 1}}
    folder = run(Experiment.of(tables), tmp_path / "run").folder
    found = check(folder)
    assert Counter(record["chosen"] for record in found.values()) == {1: 3, 0: 5}
    assert "Nobody was attacked in this run." in (folder / "report.html").read_text()


def test_a_failed_attack_counts_as_the_grey_guess_and_words_are_escaped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    script = "<script>alert(1)</script>"
    folder.write_experiment({"data": {"clients": 9}, "data_set": {"classes": ["a", "b"], "label_counts": [30, 10]}})
    folder.append_client(
        {"round": 1, "client": 2, "selected": True, "label_counts": [10, 10]},
        {"round": 2, "client": 2, "selected": True, "label_counts": [10, 10], "failure": "late"},
        {"round": 2, "client": 3, "selected": True},
    )
    victim = {"round": 1, "client": 2, "attack": script, "baseline_psnr": 8.0, "labels_true": [0, 0, 0, 1]}
    folder.append_attack(victim | {"psnr": None, "label_accuracy": 0.25}, victim | {"psnr": 7.0, "label_accuracy": 0.5})
    first, second = ledger(read_run(folder.path))
    assert (first["client"], first["chosen"], first["failures"], first["attacks"]) == (2, 2, 1, 2)
    assert (first["psnr"], first["baseline_psnr"], first["label_accuracy"]) == (8.0, 8.0, 0.5)
    assert first["baseline_label_accuracy"] == 0.75  # two of each class, of three and one
    assert first["distance"] == 0.5  # [1, 1] against [1.5, 0.5]
    assert (second["chosen"], second["attacks"], second["psnr"], second["distance"]) == (1, 0, None, None)
    page = write_report(folder.path).read_text()
    assert script not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, round 1" in page


def test_on_dull_pictures_only_what_beats_the_grey_is_recovered(tmp_path: Path) -> None:
    """A uniform grey alone is at 25 dB there."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_experiment({"data": {"clients": 3}})
    line = {"round": 1, "attack": "dlg", "baseline_psnr": 25.0}
    folder.append_attack(
        line | {"client": 0, "psnr": None},
        line | {"client": 0, "psnr": 24.0},
        line | {"client": 0, "psnr": 25.0},
        line | {"client": 1, "psnr": 26.0},
        line | {"client": 1, "psnr": 30.0, "failed_images": 1},
        line | {"client": 2, "psnr": 19.0, "baseline_psnr": 8.0},
        line | {"client": 2, "psnr": 21.0, "baseline_psnr": None},
    )
    run = read_run(folder.path)
    assert [record["recovered"] for record in ledger(run)] == [0, 1, 1]
    assert [record["psnr"] for record in ledger(run)] == [25.0, 30.0, 21.0]
    (row,) = rows(run)
    assert row.recovered == pytest.approx(2 / 7)


def test_where_all_clients_are_written_down_their_sum_is_the_whole(tmp_path: Path) -> None:
    """Runs from before the whole was written down too."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_experiment({"data": {"clients": 2}})
    folder.write_partition([[0, 4, 0], [1, 0, 4]])
    assert [record["distance"] for record in ledger(read_run(folder.path))] == [1.0, 1.0]
    folder.write_experiment({"data": {"clients": 3}})
    assert [record["distance"] for record in ledger(read_run(folder.path))] == [None, None]


def test_nothing_to_compare_has_no_distance_and_no_labels_no_guess() -> None:
    assert distance([0, 0], [1, 1]) is None
    assert distance([1], [1, 1]) is None
    assert guessed_labels([], 10) is None
    assert guessed_labels([3] * 8, 10) == pytest.approx(0.1)

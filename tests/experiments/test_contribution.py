"""Values found while a run goes on: they leave training alone, reach the books and selectors, and survive a cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import Experiment, checkpoint, run
from experiments.checkpoint import Checkpoint
from fedsim.errors import FedsimError
from fedsim.transcript import Transcript
from server.contribution import Update, Validator, appraisal, exact
from server.wrapping import values_in

TABLES: dict[str, Any] = {
    "name": "valued",
    "data": {"name": "fashion_mnist_small", "train_size": 300, "test_size": 200, "clients": 6, "validation_size": 100},
    "model": {"name": "lenet"},
    "training": {"rounds": 3, "learning_rate": 0.5},
    "selection": {"clients_per_round": 4},
    "wiretap": {"record": True},
    "contribution": {"name": "gtg", "round_truncation": 0.0},
}


def with_method(**contribution: Any) -> dict[str, Any]:
    return TABLES | {"contribution": contribution}


def told(found: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return found["round"], found["client"], found["value"]


def test_a_run_with_values_ends_in_the_same_bytes_as_one_without(tmp_path: Path) -> None:
    one = run(Experiment.of(TABLES), tmp_path / "with")
    plain = run(Experiment.of({k: v for k, v in TABLES.items() if k != "contribution"}), tmp_path / "without")
    assert (one.folder / "model.safetensors").read_bytes() == (plain.folder / "model.safetensors").read_bytes()
    assert [m["test_accuracy"] for m in one.metrics] == [m["test_accuracy"] for m in plain.metrics]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_the_values_written_are_those_of_what_was_overheard(tmp_path: Path, algorithm: str) -> None:
    """Recomputed from the transcript; and they sum to what the global model gained on the validation images."""
    training = TABLES["training"] | {"algorithm": algorithm}
    experiment = Experiment.of(with_method(name="exact") | {"training": training})
    folder = run(experiment, tmp_path / "run").folder
    validation = experiment.validation
    assert validation is not None
    assert validation.label_counts() == (10,) * 10 or len(validation) == pytest.approx(100, abs=5)
    validator = Validator(experiment.model(), validation, (experiment.data.mean, experiment.data.std))
    overheard = list(Transcript.open(folder / "transcript"))
    books = {(r, c): value for r, c, value in map(told, read(folder, "clients"))}
    for number in (1, 2, 3):
        heard = [o for o in overheard if o.round == number]
        scale = -0.5 if algorithm == "fedsgd" else 1
        sent = {
            o.client: Update(
                {k: (scale * o.received[k] if o.kind == "gradient" else o.received[k] - o.sent[k]) for k in o.sent},
                o.examples,
            )
            for o in heard
        }
        expected = exact(list(sent), validator.utility(heard[0].sent, sent))
        assert {c: v for (r, c), v in books.items() if r == number} == pytest.approx(dict(expected.values), abs=1e-6)
        if number < 3:
            after = next(o.sent for o in overheard if o.round == number + 1)
            gained = score(validator, after) - score(validator, heard[0].sent)
            assert sum(expected.values.values()) == pytest.approx(gained, abs=1e-4)
        metrics = read(folder, "metrics")[number]
        assert metrics["utility_before"] == pytest.approx(score(validator, heard[0].sent), abs=1e-6)
        gained = metrics["utility_after"] - metrics["utility_before"]
        assert gained == pytest.approx(sum(expected.values.values()), abs=1e-6)
    assert [m["utility_evaluations"] for m in read(folder, "metrics")] == [None, 16, 16, 16]


def score(validator: Validator, state: Any) -> float:
    return validator.scores({name: tensor[None] for name, tensor in state.items()})[0]


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    from experiments.run_folder import RunFolder

    opened = RunFolder.open(folder)
    return opened.read_clients() if name == "clients" else opened.read_metrics()


class Cut(Exception):  # noqa: N818
    """The power is gone."""


@pytest.mark.parametrize("method", [{"name": "published_gtg"}, {"name": "one_round"}, {"name": "exact", "every": 2}])
def test_a_run_cut_off_finds_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]
) -> None:
    experiment = Experiment.of(with_method(**method))
    whole = run(experiment, tmp_path / "whole").folder
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        if state.round == 2:
            raise Cut
        write(folder, state)

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(Cut):
        run(Experiment.of(with_method(**method)), tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    run(Experiment.of(with_method(**method)), tmp_path / "cut", resume=True)
    assert read(tmp_path / "cut", "clients") == read(whole, "clients")
    rounds = {record["round"] for record in read(whole, "clients") if record["value"] is not None}
    assert rounds == ({1, 3} if "every" in method else {1, 2, 3})
    if method["name"] == "published_gtg":
        assert all(record["value_error"] > 0 for record in read(whole, "clients"))


def test_the_report_shows_the_values(tmp_path: Path) -> None:
    page = run(Experiment.of(TABLES), tmp_path / "run").report.read_text()
    assert "Value a round" in page
    assert "gtg, by loss on 100 images of the server&#39;s own" in page
    plain = run(Experiment.of({k: v for k, v in TABLES.items() if k != "contribution"}), tmp_path / "plain")
    assert "Value a round" not in plain.report.read_text()


def test_values_are_there_when_the_selector_hears_of_the_round(tmp_path: Path) -> None:
    """The wrapper with the selector asks the strategy inside once that has aggregated."""
    strategy = Experiment.of(TABLES).strategy()
    assert values_in(strategy) == {}
    assert appraisal(strategy) is None
    heard: list[dict[int, float]] = []
    update = strategy.selector.update

    def remembering(state: Any, outcome: Any) -> Any:
        heard.append(dict(values_in(strategy.inner)))
        return update(state, outcome)

    strategy.selector.update = remembering  # type: ignore[method-assign]
    experiment = Experiment.of(TABLES)
    experiment.__dict__["strategy"] = lambda: strategy
    folder = run(experiment, tmp_path / "run").folder
    assert len(heard) == 3
    records = [told(record) for record in read(folder, "clients")]
    assert [dict(sorted(each.items())) for each in heard[-1:]] == [{c: v for r, c, v in records if r == 3}]


def test_no_image_is_tested_on_and_judged_by_and_what_cannot_work_is_refused() -> None:
    experiment = Experiment.of(TABLES)
    assert experiment.validation is not None
    assert len(experiment.validation) + len(experiment.test) == 200
    pixels = {tuple(image.flatten().tolist()) for image in experiment.validation.images}
    assert not pixels & {tuple(image.flatten().tolist()) for image in experiment.test.images}
    without = Experiment.of(TABLES | {"data": {k: v for k, v in TABLES["data"].items() if k != "validation_size"}})
    assert torch.equal(without.test.images, experiment.data.test.images)
    with pytest.raises(FedsimError, match=r"data\.validation_size"):
        without.check()
    with pytest.raises(FedsimError, match="at most 199"):
        Experiment.of(TABLES | {"data": TABLES["data"] | {"validation_size": 200}}).check()
    many = TABLES | {"data": TABLES["data"] | {"clients": 20}, "training": {"batch_size": 8}}
    Experiment.of(many | {"contribution": {"name": "exact"}}).check()
    with pytest.raises(FedsimError, match=r"2\^20 models"):
        Experiment.of(many | {"contribution": {"name": "one_round"}}).check()
    with pytest.raises(FedsimError, match=r"gtg.*truncatoin.*truncation"):
        Experiment.of(with_method(name="gtg", truncatoin=1.0)).check()

"""Attacks on a diffusion run: what the configuration grants, the same bytes live and later, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import Experiment, run
from experiments.attacking import attack_run
from experiments.campaigns import campaigns
from fedsim.errors import FedsimError
from fedsim.tasks import Occasion
from fedsim.transcript import Transcript

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")

TABLES: dict[str, Any] = {
    "data": {"name": "fashion_mnist_small", "train_size": 24, "test_size": 8, "clients": 3},
    "task": {
        "name": "diffusion",
        "schedule": {"name": "sigmoid", "steps": 16},
        "prediction": "v",
        "count": 2,
        "sampling_steps": 3,
    },
    "model": {"name": "unet", "widths": [8], "groups": 4, "attention": False},
    "training": {"algorithm": "fedsgd", "rounds": 2, "batch_size": 1, "learning_rate": 0.05},
    "wiretap": {"record": True},
}
GRANTS = ["noise", "steps"]


def attack(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "rounds": [2], "clients": [0, 2], "grants": GRANTS, "lpips": False, **parameters}


def experiment(*attacks: dict[str, Any], **tables: Any) -> Experiment:
    return Experiment.of(TABLES | {"attacks": list(attacks)} | tables)


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "attack", "picture")} for record in records]


def test_what_is_granted_is_what_the_client_drew_and_no_more() -> None:
    one = experiment()
    noise, steps = one.task.draws(Occasion(0, 2, 1), (1, 1, 28, 28))
    assert noise is not None
    assert steps is not None
    both = one.knowledge(["noise", "steps"], client=2, round=1)
    assert both.noise is not None
    assert both.steps is not None
    assert torch.equal(both.noise, noise)
    assert torch.equal(both.steps, steps)
    assert one.knowledge(["noise"]).grants() == {"noise"}
    assert one.knowledge(["steps"]).grants() == {"steps"}
    assert one.knowledge().grants() == set()
    assert not torch.equal(one.knowledge(["noise"], client=2, round=2).noise, noise)  # type: ignore[arg-type]


def test_live_and_from_the_transcript_the_same_bytes_and_images_are_found(tmp_path: Path) -> None:
    attacks = [attack("dlg", iterations=60, restarts=1), attack("inverting_gradients", iterations=60)]
    live = run(experiment(*attacks), tmp_path / "run")
    assert [r["client"] for r in live.attacks if r["attack"] == "dlg"] == [0, 2]
    for record in live.attacks:
        assert record["psnr"] > record["baseline_psnr"]
        assert record["label_accuracy"] is None
    changes = ["iterations=60", "restarts=1", 'grants=["noise", "steps"]', "lpips=false"]
    later = attack_run(live.folder, "dlg", changes, clients=[0, 2], rounds=[2], label="later").records
    assert [r["psnr"] for r in later] != [r["psnr"] for r in live.attacks[:2]]  # the label is part of the seed
    page = live.report.read_text()
    assert "The noise that a victim drew" in page
    other = run(experiment(attack("dlg", label="later", iterations=60, restarts=1)), tmp_path / "other")
    assert without_times(other.attacks) == without_times(later)


def test_the_wiretap_of_a_diffusion_run_that_is_attacked_changes_nothing(tmp_path: Path) -> None:
    attacked = run(experiment(attack("dlg", iterations=5, restarts=1)), tmp_path / "attacked")
    left_alone = run(experiment(wiretap={"record": False}), tmp_path / "alone")
    assert all(torch.equal(left_alone.final_arrays[k], v) for k, v in attacked.final_arrays.items())


def test_erasing_the_truth_changes_no_reconstruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.campaigns import reconstruct
    from experiments.config import attack_table

    folder = run(experiment(), tmp_path / "run").folder
    seen = Transcript.open(folder / "transcript").of_client(2)[1]
    table = attack_table(attack("dlg", iterations=20, restarts=1))
    before = reconstruct(experiment(), table, seen)
    monkeypatch.setattr(Experiment, "truth", lambda *_: pytest.fail("an attack asked for the truth"))
    after = reconstruct(experiment(), table, seen)
    assert torch.equal(before.images, after.images)


def test_gidm_attacks_a_run_through_the_model_that_is_trained_and_its_transcript_alike(tmp_path: Path) -> None:
    searches = {"latent_iterations": 10, "iterations": 90, "optimiser": "lbfgs"}
    live = run(experiment(attack("gidm", **searches)), tmp_path / "live")
    assert [record["client"] for record in live.attacks] == [0, 2]
    for record in live.attacks:
        assert record["iterations"] == 100
        assert record["loss"] < 0.5
        assert record["psnr"] > record["baseline_psnr"]
    stored = run(experiment(), tmp_path / "stored")
    changes = [f"{k}={v!r}" for k, v in searches.items()] + ['grants=["noise", "steps"]', "lpips=false"]
    later = attack_run(stored.folder, "gidm", changes, clients=[0, 2], rounds=[2]).records
    assert without_times(later) == without_times(live.attacks)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"attacks": [attack("dlg") | {"grants": ["noise"]}]}, ["know the steps", "withholds", "Grant 'steps'"]),
        ({"attacks": [attack("dlg") | {"grants": []}]}, ["know the noise", "know the steps"]),
        ({"attacks": [attack("dlg")], "task": {"name": "classification"}, "model": {"name": "lenet"}},
         ["granted the noise", "'classification' draws none"]),
    ],
)  # fmt: skip
def test_what_the_threat_model_lacks_is_found_before_it_starts(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        campaigns(experiment(**tables))
    for word in words:
        assert word in str(error.value)

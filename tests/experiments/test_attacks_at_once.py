"""Victims of a round attacked at once, in runs: the same bytes live, from the transcript and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import Experiment, run
from experiments.attacking import attack_run
from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

DATA = {"name": "fashion_mnist_small", "train_size": 120, "test_size": 50, "clients": 4}
TRAINING = {"algorithm": "fedsgd", "rounds": 3, "batch_size": 2, "learning_rate": 0.5}
ATTACK = {"name": "inverting_gradients", "rounds": ["first", "last"], "iterations": 12, "lpips": False}


def experiment(*attacks: dict[str, Any], **tables: Any) -> Experiment:
    named = {"data": DATA, "model": {"name": "lenet"}, "training": TRAINING, "attacks": list(attacks)}
    return Experiment.of({**named, **tables})


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}


def test_live_and_from_the_transcript_and_with_workers_the_bytes_are_the_same(tmp_path: Path) -> None:
    """Four victims a round in units of three and one."""
    table = ATTACK | {"at_once": 3}
    live = run(experiment(table, wiretap={"record": True}), tmp_path / "live")
    assert [(r["round"], r["client"]) for r in live.attacks] == [(t, c) for t in (1, 3) for c in range(4)]
    workers = run(experiment(table, engine={"workers": 2, "attack_workers": 2}), tmp_path / "workers")
    assert without_times(workers.attacks) == without_times(live.attacks)
    assert pictures(workers.folder) == pictures(live.folder)
    recorded = run(experiment(wiretap={"record": True}), tmp_path / "recorded").folder
    changes = ["iterations=12", "lpips=false", "at_once=3"]
    found = attack_run(recorded, "inverting_gradients", changes, rounds=[1, 3])
    assert without_times(found.records) == without_times(live.attacks)
    assert pictures(recorded) == pictures(live.folder)


def test_at_once_is_one_by_one_but_for_rounding(tmp_path: Path) -> None:
    alone = run(experiment(ATTACK), tmp_path / "alone").attacks
    together = run(experiment(ATTACK | {"at_once": 4}), tmp_path / "together").attacks
    assert [r["loss"] for r in together] == pytest.approx([r["loss"] for r in alone], rel=1e-3)
    assert [r["psnr"] for r in together] == pytest.approx([r["psnr"] for r in alone], abs=0.01)
    assert [r["iterations"] for r in together] == [12] * 8


@pytest.mark.parametrize("attack_workers", [0, 1])
def test_a_run_cut_off_in_the_middle_of_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack_workers: int
) -> None:
    """Two of the first three results are written down; the others come out as if nothing had happened."""
    table = ATTACK | {"at_once": 3}
    whole = run(experiment(table), tmp_path / "whole")
    append = RunFolder.append_attack
    written: list[Any] = []

    def cut(folder: RunFolder, *records: Any) -> None:
        if len(written) == 2:
            raise InterruptedError
        written.extend(records)
        append(folder, *records)

    one = experiment(table, engine={"attack_workers": attack_workers})
    monkeypatch.setattr(RunFolder, "append_attack", cut)
    with pytest.raises(InterruptedError):
        run(one, tmp_path / "cut")
    assert len(RunFolder.open(tmp_path / "cut").read_attacks()) == 2
    monkeypatch.setattr(RunFolder, "append_attack", append)
    resumed = run(one, tmp_path / "cut", resume=True)
    assert without_times(resumed.attacks) == without_times(whole.attacks)
    assert pictures(resumed.folder) == pictures(whole.folder)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "dlg", "at_once": 2}, r"optimiser, LBFGS, works on one victim at a time.*leave out at_once"),
        ({"name": "agic", "at_once": 2}, r"simulator, PooledGradient"),
        ({"name": "rgap", "at_once": 2, "label": "rgap"}, r"put together as an Inversion"),
        ({"name": "inverting_gradients", "at_once": 2, "seconds": 5.0}, r"budget of 5.0 seconds"),
        ({"name": "inverting_gradients", "at_once": 0}, r"at_once"),
        ({"name": "inverting_gradients", "compiled": "always"}, r"compiled = 'always'"),
    ],
)
def test_what_cannot_be_attacked_at_once_is_refused_before_the_run(
    tmp_path: Path, table: dict[str, Any], words: str
) -> None:
    with pytest.raises(FedsimError, match=words):
        run(experiment(table), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_from_the_transcript_it_is_refused_likewise(tmp_path: Path) -> None:
    recorded = run(experiment(wiretap={"record": True}), tmp_path / "recorded").folder
    with pytest.raises(FedsimError, match="LBFGS"):
        attack_run(recorded, "dlg", ["at_once=2"])


def test_to_compile_without_a_compiler_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FedsimError, match=r"Compiling needs no-such-compiler"):
        run(experiment(ATTACK | {"compiled": True}), tmp_path / "run")

"""A run that is cut off and resumed ends in the same bytes as one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import Experiment, checkpoint, run
from experiments.checkpoint import Checkpoint
from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

TABLES: dict[str, Any] = {
    "name": "cut-off",
    "data": {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 10},
    "model": {"name": "lenet"},
    "training": {"algorithm": "fedsgd", "rounds": 6, "batch_size": 2, "learning_rate": 0.01,
                 "strategy": {"name": "fedsgd", "optimiser": "adam"}},
    "selection": {"clients_per_round": 4},
    "wiretap": {"record": True},
    "attacks": [{"name": "dlg", "rounds": "every 2", "clients": 1, "iterations": 20, "restarts": 1, "lpips": False}],
}  # fmt: skip


def books(folder: Path) -> dict[str, Any]:
    """Everything a run writes down, without the times."""

    def lines(name: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{key: value for key, value in record.items() if key != "seconds"} for record in records]

    found: dict[str, Any] = {name: lines(name) for name in ("metrics.jsonl", "clients.jsonl", "attacks.jsonl")}
    found["transcript"] = lines("transcript/index.jsonl")
    found["model"] = (folder / "model.safetensors").read_bytes()
    found["pictures"] = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    return found


class Cut(Exception):  # noqa: N818
    """The power is gone."""


@pytest.mark.parametrize("attack_workers", [0, 1])
def test_a_run_cut_off_between_a_round_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack_workers: int
) -> None:
    whole = run(Experiment.of(TABLES), tmp_path / "whole").folder
    one = Experiment.of(TABLES | {"engine": {"attack_workers": attack_workers}})
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        if state.round == 4:
            raise Cut
        write(folder, state)

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(Cut):
        run(one, tmp_path / "cut")
    assert RunFolder.open(tmp_path / "cut").read_metrics()[-1]["round"] == 4
    monkeypatch.setattr(checkpoint, "write", write)
    run(one, tmp_path / "cut", resume=True)
    assert books(tmp_path / "cut") == books(whole)
    assert len(list((tmp_path / "cut" / "checkpoint").iterdir())) == 2


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_the_moments_of_flowers_strategies_survive(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"server_momentum": 0.9} if strategy == "fedavgm" else {}
    training = {"rounds": 4, "batch_size": 10, "strategy": {"name": strategy, **given}}
    one = Experiment.of({"data": TABLES["data"], "model": TABLES["model"], "training": training})
    whole = run(one, tmp_path / "whole")
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        write(folder, state)
        if state.round == 2:
            raise Cut

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(Cut):
        run(one, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write", write)
    resumed = run(one, tmp_path / "cut", resume=True)
    assert {n: t.numpy().tobytes() for n, t in resumed.final_arrays.items()} == {
        n: t.numpy().tobytes() for n, t in whole.final_arrays.items()
    }


def test_resuming_with_another_configuration_is_refused(tmp_path: Path) -> None:
    training = {"rounds": 1, "batch_size": 10}
    run(Experiment.of({"data": TABLES["data"], "training": training}), tmp_path / "run")
    with pytest.raises(FedsimError, match=r"another \[training\]"):
        run(
            Experiment.of({"data": TABLES["data"], "training": training | {"rounds": 2}}), tmp_path / "run", resume=True
        )


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """SIGKILL, whatever the run is doing: no finished round is lost, no file broken, the same bytes at the end."""
    tables = TABLES | {
        "training": TABLES["training"] | {"rounds": 60},
        "attacks": [TABLES["attacks"][0] | {"rounds": "every 15", "clients": 2}],
        "engine": {"attack_workers": 1},
    }
    experiment = Experiment.of(tables)
    whole = run(experiment, tmp_path / "whole").folder
    (tmp_path / "one.toml").write_text(experiment.config.to_toml())
    command = [sys.executable, "-m", "experiments.cli", "run", str(tmp_path / "one.toml"), "--quiet", "--resume"]
    command += ["--out", str(tmp_path / "killed")]
    moments = random.Random(3)
    finished = 0
    for _ in range(10):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        folder = tmp_path / "killed"
        metrics = folder / "metrics.jsonl"
        before = len(metrics.read_bytes()) if metrics.exists() else 0
        deadline = time.monotonic() + 120
        while (not metrics.exists() or len(metrics.read_bytes()) == before) and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(moments.random() * 1.5)
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        last = checkpoint.read_last(folder / "checkpoint")
        assert last is None or last.round >= finished
        finished = last.round if last else 0
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert books(tmp_path / "killed") == books(whole)

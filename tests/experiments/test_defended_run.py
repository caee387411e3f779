"""Runs whose clients defend themselves: the same bytes whatever computes them, and after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from flwr.serverapp import Grid

from experiments import Experiment, checkpoint, run
from experiments.checkpoint import Checkpoint
from fedsim.errors import FedsimError

CHAIN = [
    {"name": "pruning", "share": 0.9},
    {"name": "clipping", "norm": 0.5},
    {"name": "gaussian_noise", "standard_deviation": 1e-4},
    {"name": "int8"},
]
TABLES: dict[str, Any] = {
    "data": {"name": "fashion_mnist_small", "train_size": 200, "test_size": 50, "clients": 6},
    "model": {"name": "lenet"},
    "training": {"rounds": 4, "batch_size": 10, "learning_rate": 0.05},
    "selection": {"clients_per_round": 4},
    "defences": CHAIN,
}


def final(folder: Path, **changes: Any) -> dict[str, bytes]:
    arrays = run(Experiment.of(TABLES | changes), folder).final_arrays
    return {name: tensor.numpy().tobytes() for name, tensor in arrays.items()}


def test_the_same_bytes_in_threads_in_processes_and_on_one_worker(tmp_path: Path) -> None:
    whole = final(tmp_path / "one")
    for processes in (False, True):
        engine = {"name": "local", "workers": 2, "processes": processes}
        assert final(tmp_path / f"{processes}", engine=engine) == whole
    assert final(tmp_path / "bare", defences=[]) != whole
    assert final(tmp_path / "forgetful", defences=[{**CHAIN[0], "error_feedback": False}, *CHAIN[1:]]) != whole


@pytest.mark.slow
def test_the_same_bytes_in_rays_actors(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="NOT TESTED: the engine 'ray'. Run: pip install fedsim[ray]")
    assert final(tmp_path / "ray", engine={"name": "ray", "workers": 2}) == final(tmp_path / "local")


class Cut(Exception):  # noqa: N818
    """The power is gone."""


def cut_after(round: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.write

    def cut(folder: Path, state: Checkpoint) -> None:
        write(folder, state)
        if state.round == round:
            monkeypatch.setattr(checkpoint, "write", write)
            raise Cut

    monkeypatch.setattr(checkpoint, "write", cut)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_what_pruning_kept_back_survives_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    one = Experiment.of(TABLES | {"training": TABLES["training"] | {"algorithm": algorithm}})
    whole = run(one, tmp_path / "whole").final_arrays
    cut_after(2, monkeypatch)
    with pytest.raises(Cut):
        run(one, tmp_path / "cut")
    state = checkpoint.read_last(tmp_path / "cut" / "checkpoint")
    assert state is not None
    assert any(client for client in state.clients.values())
    resumed = run(one, tmp_path / "cut", resume=True).final_arrays
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_engine_that_forgets_its_clients_cannot_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Experiment.of(TABLES)
    cut_after(2, monkeypatch)
    with pytest.raises(Cut):
        run(one, tmp_path / "cut")
    with pytest.raises(FedsimError, match=r"--resume.*'pruning'"):
        run(one, tmp_path / "cut", resume=True, grid=Mock(spec=Grid))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([{"name": "prunning", "share": 0.5}], "defence 'prunning' is not known. Did you mean 'pruning'"),
        ([{"name": "pruning", "shar": 0.5}], "defence pruning: shar = 0.5: no such parameter. Did you mean 'share'"),
        ([{"name": "pruning", "share": "much"}], "defence pruning: share = 'much'"),
        ([{"name": "withholding", "layers": ["fcc"]}], "withholding: layers = 'fcc': is no layer"),
        ([{"share": 0.5}], "defences.0.name: field required"),
    ],
)
def test_a_wrong_defence_is_found_before_anything_is_trained(tmp_path: Path, wrong: Any, words: str) -> None:
    with pytest.raises(FedsimError, match=words):
        run(Experiment.of(TABLES | {"defences": wrong}), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The reproduction of what federated diffusion models draw: tiny runs gone on with, and a page of known numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from experiments.reproduce import federated_diffusion as study
from experiments.reproduce import halved
from experiments.reproduce.federated_diffusion_page import MAIN, PARTITIONS, TOLD, rounds, table, verdict
from fedsim.data import load

pytest.importorskip("diffusers", reason="NOT TESTED: diffusion runs. Run: pip install fedsim[diffusion]")

TINY = ["data.train_size=640", "data.test_size=20", "data.validation_size=4", "training.rounds=2", "model.widths=[8]",
        "model.groups=4", "model.attention=false", "training.batch_size=4", "task.count=10", "task.sampling_steps=2",
        "quality.samples=8", "training.local_steps=1"]  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    changes = [word for change in TINY for word in ("--set", change)]
    paths = ["--out", str(folder / "out"), "--runs", str(folder / "runs")]
    monkeypatch.setattr("sys.argv", [sys.argv[0], *paths, "--workers", "1", *changes, *arguments])
    study.main()
    return [json.loads(line) for line in (folder / "out" / "federated-diffusion.jsonl").read_text().splitlines()]


def test_pictures_are_halved_by_means_of_four_pixels() -> None:
    whole, half = load("fashion_mnist_small"), halved.clothes()
    assert half.input_shape == (1, 14, 14)
    assert torch.equal(half.train.labels, whole.train.labels)
    expected = interpolate(whole.test.images[:9].float(), (14, 14), mode="area")
    assert float((half.test.images[:9] - expected).abs().max()) <= 0.5


def test_partitions_are_what_the_page_calls_them() -> None:
    first, second, told = study.planned(Path("runs"), 2, 1)
    assert list(first) == list(second) == list(PARTITIONS)
    assert list(told) == list(TOLD)
    assert [job.seed for job in second.values()] == [1] * 4
    folders = {job.folder for part in (first, second, told) for job in part.values()}
    assert len(folders) == 10
    spread = {}
    for name, job in (first | told).items():
        one = job.experiment
        shares = [len(one.shard(client).labels.unique()) for client in range(10)]
        spread[name] = sum(shares) / 10
        assert one.task.conditional == (name in TOLD)
    assert spread["IID"] == spread["IID, told classes"] == 10
    assert spread["IID"] >= spread["Dirichlet(1)"] > spread["Dirichlet(0.1)"] > spread["one class a client"] == 1


def test_what_is_finished_is_not_done_again_and_the_page_is_of_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "PARTITIONS", PARTITIONS[:1])
    monkeypatch.setattr(study, "TOLD", TOLD[:1])
    main = {"data.name": "fashion_mnist_small", "data.clients": 5, "task.schedule": '{ name = "cosine", steps = 9 }'}
    changes = [word for key, value in main.items() for word in ("--set", f"{key}={value}")]
    records = call(monkeypatch, tmp_path, "--seeds", "1", "--told-seeds", "1", *changes)
    assert [record["cell"] for record in records] == [MAIN, PARTITIONS[0], TOLD[0]]
    again = call(monkeypatch, tmp_path, "--seeds", "2", "--told-seeds", "0", "--page", *changes)
    assert again == records
    page = (tmp_path / "out" / "federated-diffusion.md").read_text()
    assert "## Over partitions" in page
    assert f"| {TOLD[0]} | 1 |" in page
    for picture in ("", "-quality", "-partitions", "-classes", "-iid"):
        assert (tmp_path / "out" / f"federated-diffusion{picture}.png").read_bytes().startswith(b"\x89PNG")


def record(cell: str, seed: int, loss: float, distance: float) -> dict[str, Any]:
    return {"cell": cell, "seed": seed, "seconds": 90.0, "losses": [[0, 0.9], [80, loss]],
            "quality": [[1, 200.0, 0.1, 0.0], *([n, distance + n - 70, 0.5, 0.75] for n in (60, 70, 80))]}  # fmt: skip


def test_tables_have_the_last_rounds_and_every_seed() -> None:
    runs = [record("IID", 0, 0.2, 10.0), record("IID", 1, 0.4, 20.0), record("Dirichlet(1)", 0, 0.3, 50.0)]
    first, second = table(runs, PARTITIONS).splitlines()[2:]
    assert first == "| IID | 2 | 0.3000 (0.2000, 0.4000) | 15.0 (10.0, 20.0) | 0.50 (0.50, 0.50) | 0.75 (0.75, 0.75) |"
    assert second == "| Dirichlet(1) | 1 | 0.3000 | 50.0 | 0.50 | 0.75 |"
    assert rounds(runs[0]).splitlines()[2:] == ["| 0 | 0.9000 |  |  |  |", "| 80 | 0.2000 | 20.0 | 0.50 | 0.75 |"]
    assert "**10.0% of round 1's** 200" in verdict(runs[0])

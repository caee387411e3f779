"""The reproduction of SFDDM: students of a small run, measured once, and a page of what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import Experiment, run
from experiments.reproduce import sfddm
from experiments.reproduce.sfddm_cells import starts
from experiments.reproduce.sfddm_page import measures

pytest.importorskip("diffusers", reason="NOT TESTED: distillation. Run: pip install fedsim[diffusion]")

CONFIG = Path(__file__).parents[2] / "experiments/configs/diffusion.toml"
SMALL = ["training.rounds=1", "data.clients=1", "data.train_size=64", "data.test_size=160", "model.widths=[8,8]",
         "task.count=0", "engine.workers=1", 'data.partition={name="iid"}', "data.validation_size=80",
         'task.schedule={name="cosine",steps=50}', 'task.prediction="v"', "training.ema=0.5"]  # fmt: skip


def test_each_is_measured_once_from_the_same_starts(tmp_path: Path) -> None:
    run(Experiment.load(CONFIG, SMALL), tmp_path / "run", quiet=True)
    told = ["--out", str(tmp_path), "--run", str(tmp_path / "run"), "--models", str(tmp_path / "models"),
            "--steps", "4", "--updates", "6", "--starts", "64", "--many", "80"]  # fmt: skip
    sfddm.main(told)
    path = tmp_path / "sfddm.jsonl"
    records = {record["key"]: record for record in map(json.loads, path.read_text().splitlines())}
    assert list(records) == ["teacher-50", "teacher-4", "teacher-40", "trajectory-teacher-4", "output-teacher-4",
                             "output-random-4"]  # fmt: skip
    assert records["teacher-50"]["psnr"] == records["output-teacher-4"]["psnr_as_few"] == [100.0] * 64
    assert records["output-teacher-4"]["psnr"] == records["teacher-4"]["psnr"]  # the perfect student gains nothing
    assert records["teacher-50"]["in_order"] == 9
    assert records["trajectory-teacher-4"]["lessons"]["epochs"] == 3
    assert len(records["trajectory-teacher-4"]["first_psnr"]) == 64
    page, picture = (tmp_path / "sfddm.md").read_text(), (tmp_path / "sfddm.png").read_bytes()
    before = path.read_bytes()
    sfddm.main(told)
    sfddm.main([*told, "--page"])
    assert path.read_bytes() == before
    assert (tmp_path / "sfddm.md").read_text() == page
    assert (tmp_path / "sfddm.png").read_bytes() == picture


def test_measures() -> None:
    black, grey = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.1)
    assert sfddm.psnr(grey, black).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert sfddm.psnr(black, black).tolist() == [100, 100]
    line = torch.linspace(0, 1, 9).reshape(9, 1, 1, 1)
    assert sfddm.in_order(line, line) == 9
    assert sfddm.in_order(line.flip(0), line) == 1  # the middle one
    start = starts(64, (1, 4, 4), seed=0)
    assert start.shape == (73, 1, 4, 4)
    assert torch.equal(start[64], start[0])
    assert torch.allclose(start[68], (start[0] + start[1]) / 2)


def test_gains_are_paired_with_the_teacher_of_as_few_steps() -> None:
    common: dict[str, Any] = {"total": 100, "frechet_distance": 1.0, "precision": 1.0, "recall": 1.0, "seconds": 0.01,
                              "many": None}  # fmt: skip
    told = {"target": "trajectory", "start": "teacher"}
    records = [
        common | {"steps": 100, "lessons": None, "psnr": [100.0, 100.0]},
        common | {"steps": 4, "lessons": None, "psnr": [10.0, 20.0]},
        common | {"steps": 4, "lessons": told, "psnr": [13.0, 23.0]},
    ]
    assert [row.split(" | ")[2:4] for row in measures(records).splitlines()[2:]] == [
        ["", ""],
        ["15.00", ""],
        ["18.00", "+3.00 [+3.00, +3.00]"],
    ]

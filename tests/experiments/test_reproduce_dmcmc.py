"""The reproduction of ``dmcmc``: what each way to draw costs, that it goes on where it stopped, what it concludes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import Experiment, run
from experiments.reproduce import dmcmc
from experiments.reproduce.dmcmc_cells import CALLS, STEP_SIZE, Cell, cells, draw, how, likeness, settings
from experiments.reproduce.dmcmc_models import Model
from experiments.reproduce.dmcmc_page import statements
from fedsim.diffusion import SCHEDULES, Counted, at_levels
from fedsim.diffusion.dmcmc import Joint
from fedsim.diffusion.levels import geometric

CHAIN = Cell("heun", 10, chain=True, outputs=5)


def known() -> tuple[Model, Counted]:
    """A model of Gaussian images of deviation 0.3, exactly, with the calls of its network."""
    schedule = SCHEDULES.create("cosine", 1000)

    def answer(x: Tensor, t: Tensor) -> Tensor:
        a, b = schedule.scales(t, x)
        return a * 0.3**2 * x / ((a * 0.3) ** 2 + b**2)

    levels = geometric(1000, 0.02, 71.0)

    def classify(x: Tensor) -> Tensor:
        variance = 0.3**2 + levels**2
        squares = x.flatten(1).square().sum(1, keepdim=True)
        return -squares / (2 * variance) - x[0].numel() / 2 * variance.log()

    steps = Counted(answer)
    experiment: Any = SimpleNamespace(data=SimpleNamespace(input_shape=(1, 16, 16)))
    return Model(experiment, schedule, steps, Joint(at_levels(steps, schedule), classify, levels)), steps


@pytest.mark.parametrize("budget", CALLS)
@pytest.mark.parametrize("by", ["ddpm", "ddim", "heun"])
def test_calls_told_are_those_made(by: Any, budget: int) -> None:
    model, asked = known()
    plain = draw(Cell(by, budget), model, 10)
    assert plain.calls == asked.calls == (budget - (budget % 2 == 0) if by == "heun" else budget)
    chained = draw(Cell(by, budget, chain=True, outputs=2), model, 10)
    assert chained.calls == budget == how(Cell(by, budget, chain=True)).calls
    assert asked.calls == plain.calls + chained.warm_up_calls + 2 * budget
    assert chained.warm_up_calls == 57


@pytest.mark.parametrize("cell", [Cell("ddim", 50), Cell("ddpm", 50), Cell("heun", 50), replace(CHAIN, calls=50)])
def test_images_are_of_the_data_and_of_the_seed(cell: Cell) -> None:
    model, _ = known()
    images = draw(cell, model, 50).images
    assert float(images.std() * 2) == pytest.approx(0.3, rel=0.12)
    assert torch.equal(images, draw(cell, known()[0], 50).images)
    assert not torch.equal(images, draw(replace(cell, seed=1), known()[0], 50).images)


def test_cells_differ_and_every_way_has_its_chain() -> None:
    found = list(cells(CHAIN, 2))
    keys = [json.dumps(cell.key()) for cell in [*found, *settings()]]
    assert len(set(keys)) == len(keys)
    assert {cell.judge for cell in found} == {"test"}
    assert {cell.judge for cell in settings()} == {"validation"}
    for budget in CALLS:
        own = [cell for cell in found if cell.calls == budget]
        with_chain = {(cell.integrator, cell.churn, cell.seed) for cell in own if cell.chain}
        assert with_chain == {(cell.integrator, cell.churn, cell.seed) for cell in own if not cell.chain}
        assert len(with_chain) == 8


def test_likeness_is_0_of_copies_and_1_of_independent_images() -> None:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert likeness(torch.cat([images, images]), 2) == 0
    assert likeness(images, 4) == pytest.approx(1, abs=0.05)
    assert likeness(images, 1) is None


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers", reason="NOT TESTED: diffusion runs. Run: pip install fedsim[diffusion]")
    experiment = Experiment.of({
        "data": {"name": "fashion_mnist_small", "train_size": 60, "clients": 2, "test_size": 40, "validation_size": 12},
        "task": {"name": "diffusion", "prediction": "v", "count": 0, "schedule": {"name": "cosine", "steps": 1000}},
        "model": {"name": "unet", "widths": [8], "groups": 4, "attention": False},
        "training": {"rounds": 1, "batch_size": 20, "learning_rate": 0.01, "ema": 0.5},
    })  # fmt: skip
    run(experiment, tmp_path / "run")
    few = [
        Cell("ddim", 5),
        Cell("ddim", 5, chain=True, outputs=2, step_size=STEP_SIZE),
        Cell("heun", 10, judge="validation"),
    ]
    monkeypatch.setattr(dmcmc, "settings", lambda: few[2:])
    monkeypatch.setattr(dmcmc, "cells", lambda chain, seeds: few[:seeds])
    folders = {"--out": tmp_path / "out", "--run": tmp_path / "run", "--models": tmp_path}
    words = ["dmcmc", *(str(word) for pair in folders.items() for word in pair), "--images", "8", "--training", "1"]

    def lines(*more: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        dmcmc.main()
        return (tmp_path / "out" / "dmcmc.jsonl").read_text().splitlines()

    first, second = lines("--seeds", "1"), lines("--seeds", "2")
    assert second[: len(first)] == first
    assert [json.loads(line)["cell"] for line in second[1:]] == [few[2].key(), few[0].key(), few[1].key()]
    assert lines("--seeds", "2") == second
    page = (tmp_path / "out" / "dmcmc.md").read_text()
    assert "| chain, DDIM | 5 | 57 | 1 |" in page
    assert (tmp_path / "out" / "dmcmc.png").stat().st_size > 1000


def test_who_wins_follows_from_all_seeds() -> None:
    def record(chain: bool, seed: int, distance: float, recall: float) -> dict[str, Any]:
        cell = Cell("ddim", 10, seed, chain).key()
        warm_up = 57 if chain else 0
        return {"cell": cell, "calls": 10, "warm_up_calls": warm_up, "frechet_distance": distance, "recall": recall}

    records = [record(False, 0, 20.0, 0.7), record(False, 1, 22.0, 0.6)]
    records += [record(True, 0, 18.0, 0.3), record(True, 1, 19.0, 0.65)]
    distance, recall, warm = statements(records)
    assert "18.50 with the chain, 21.00 without (the chain wins)" in distance
    assert "(not told apart)" in recall
    assert "takes 21.4 an image and is closer" in warm
    records[3] = record(True, 1, 21.0, 0.1)
    assert "(not told apart)" in statements(records)[0]
    assert "(the chain loses)" in statements(records)[1]

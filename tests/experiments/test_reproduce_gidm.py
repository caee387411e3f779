"""The reproduction of ``gidm``: each method attacks the same gradient, of which the truth is the minimum."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from adversary import ATTACKS
from adversary.inversion import Candidate, Inversion
from experiments.reproduce import gidm
from experiments.reproduce.gidm_models import distilled, trained
from experiments.reproduce.gidm_page import table, write_page
from experiments.reproduce.gidm_picture import write_picture
from experiments.reproduce.victims import run_all
from fedsim.data import DataSet, load
from fedsim.diffusion.student import load_student

pytest.importorskip("diffusers", reason="NOT TESTED: attacks on diffusion. Run: pip install fedsim[diffusion]")


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    small = load("fashion_mnist_small")
    monkeypatch.setattr(gidm, "_data", lambda: small)
    return small


def test_methods_share_a_victim_and_its_image_explains_the_gradient(data: DataSet, tmp_path: Path) -> None:
    prior = tmp_path / "prior.safetensors"
    state = trained(data, 2, prior)
    again = trained(data, 2, tmp_path / "again.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in again.items())
    tasks = list(gidm.tasks_of(4, prior))
    assert [task.t for task in tasks[::10]] == [0, 5, 10, 15]
    assert len({task.key() for task in tasks}) == len(tasks) == 4 * 2 * 5
    for task in tasks[::5]:
        observation, knowledge, images, _ = gidm.observe_noise(task, data)
        assert (torch.equal(observation.sent["network.out.weight"], state["network.out.weight"])) == (
            task.state == "trained"
        )
        attack = ATTACKS.create("dlg")
        assert isinstance(attack, Inversion)
        problem = attack.problem([observation], knowledge, seed=0)
        assert problem.objective(Candidate(images * 2 - 1)).item() < 1e-8


def test_what_is_done_is_not_done_again_and_a_page_is_written_of_a_part(data: DataSet, tmp_path: Path) -> None:
    prior = tmp_path / "prior.safetensors"
    trained(data, 1, prior)
    short = {"gidm": {"latent_draws": 2, "latent_iterations": 2, "iterations": 2}, "dlg": {"iterations": 4}}
    tasks = [
        replace(task, parameters=task.parameters | short[task.attack])
        for task in gidm.tasks_of(1, prior)
        if task.state == "trained" and task.attack in short
    ]
    records = run_all(tasks[:1], tmp_path, "gidm", 1, gidm.attack_noise)
    assert records[0]["iterations"] == 8  # two starts of both searches, as the first one explains nothing
    assert records[0]["cpu_seconds_to_explain"] is None
    assert run_all(tasks, tmp_path, "gidm", 1, gidm.attack_noise, partial=True) == records
    write_page(tmp_path, "gidm", records, training=1, distilling=1)
    assert "| `gidm` | 1 |" in (tmp_path / "gidm.md").read_text()
    write_picture(tmp_path, "gidm", tasks)
    with Image.open(tmp_path / "gidm.png") as picture:
        assert picture.size == (56, 7 * 56 + 6)  # one victim; the truth, and six rows of methods


def test_priors_begin_at_the_same_latents_and_a_withheld_step_is_read(data: DataSet, tmp_path: Path) -> None:
    prior, student = tmp_path / "prior.safetensors", tmp_path / "student"
    distilled(data, trained(data, 1, prior), 2, student, count=gidm.STUDENT_STEPS)
    assert len(load_student(student).fold.steps) == gidm.STUDENT_STEPS
    short = {"latent_draws": 2, "latent_iterations": 1, "iterations": 0, "restarts": 1}
    tasks = [task for task in gidm.tasks_of_priors(2, prior, student) if task.victim == 1]
    assert len({task.key() for task in tasks}) == len(tasks)
    assert len({task.name for task in tasks}) == 1  # which the seed of the latents is of
    by_variant = {task.variant: replace(task, parameters=task.parameters | short) for task in tasks}
    known, images = gidm.attack_noise(by_variant["/first/four steps"])[::2]
    withheld, again = gidm.attack_noise(by_variant["/B"])[::2]
    assert (known["step_read"], withheld["step_read"]) == (None, by_variant["/B"].t)
    assert torch.equal(images, again)
    record, _, others = gidm.attack_noise(by_variant["/first/student"])
    assert not torch.equal(others, images)
    write_page(tmp_path, "gidm", [known, withheld, record], training=1, distilling=2)
    page = (tmp_path / "gidm.md").read_text()
    assert "| `first, student` | 1 |" in page
    assert "the step was read rightly in 1 of 1" in page


def test_the_time_until_a_gradient_is_explained_is_noted_once(data: DataSet, tmp_path: Path) -> None:
    prior = tmp_path / "prior.safetensors"
    trained(data, 1, prior)
    task = next(task for task in gidm.tasks_of(2, prior) if task.victim == 1 and task.attack == "dlg")
    observation, knowledge, _, _ = gidm.observe_noise(task, data)
    timed = gidm.Timed(ATTACKS.create("dlg", iterations=300, restarts=1))
    found = timed.reconstruct([observation], knowledge, seed=0)
    assert found.loss < gidm.EXPLAINED
    assert len(timed.marks) == 2
    assert timed.marks[0] < timed.marks[1] < time.process_time()


def test_every_victim_counts_and_failures_have_no_gap() -> None:
    common: dict[str, Any] = {"state": "fresh", "ssim": 0.5, "cpu_seconds": 2.0, "iterations": 9}
    seconds = [0.5, None, 1.5]
    records = [
        {**common, "name": "fresh-dlg", "victim": victim, "psnr": psnr, "loss": loss}
        | {"cpu_seconds_to_explain": seconds[victim]}
        for victim, (psnr, loss) in enumerate([(40.0, 1e-9), (8.0, None), (25.0, 1e-3)])
    ]
    row = table(records).splitlines()[-1].split(" | ")
    assert row[1:4] == ["3", "25.0 [8.0, 40.0]", "2 of 3"]
    assert row[-2:] == ["2.0", "1.5 |"]  # who explains nothing counts with the whole search

"""Runs whose networks are told classes: configuration alone, sampled class by class, and attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experiments import Experiment, run
from experiments.campaigns import campaigns
from experiments.distilling import teacher_of
from fedsim.errors import FedsimError

pytest.importorskip("diffusers", reason="NOT TESTED: diffusion runs. Run: pip install fedsim[diffusion]")

TABLES: dict[str, Any] = {
    "data": {"name": "fashion_mnist_small", "train_size": 24, "test_size": 8, "clients": 3},
    "task": {"name": "diffusion", "schedule": {"name": "sigmoid", "steps": 16}, "prediction": "v", "count": 12,
             "sampling_steps": 3, "conditional": True},
    "model": {"name": "unet", "widths": [8], "groups": 4, "attention": False},
    "training": {"algorithm": "fedsgd", "rounds": 2, "batch_size": 3, "learning_rate": 0.05},
}  # fmt: skip
ATTACK = {"name": "dlg", "rounds": [2], "clients": [0, 2], "grants": ["noise", "steps"], "lpips": False,
          "iterations": 10, "restarts": 1}  # fmt: skip


class Own(nn.Module):
    """A network of the user's own that is told classes in a way that no attack knows."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(classes, *input_shape))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x + self.shift[labels] * t.view(-1, 1, 1, 1)


def experiment(**tables: Any) -> Experiment:
    return Experiment.of(TABLES | tables)


def test_a_run_draws_a_column_a_class_and_gives_its_labels_away(tmp_path: Path) -> None:
    done = run(experiment(attacks=[ATTACK]), tmp_path / "run")
    with Image.open(done.folder / "pictures" / "samples.png") as picture:
        assert picture.size == (10 * 29 - 1, 2 * 29 - 1)
    assert [record["label_accuracy"] for record in done.attacks] == [1.0, 1.0]
    assert done.attacks[0]["labels_true"]
    with pytest.raises(FedsimError, match=r"told classes.*task.conditional = false"):
        teacher_of(done.folder)


def test_labels_granted_are_in_the_order_of_the_noise() -> None:
    one = experiment()
    granted = one.knowledge(["labels", "noise", "steps"], client=1, round=2)
    assert granted.labels is not None
    assert torch.equal(granted.labels, one.shard(1).labels[one.batches(1, 2)[0]])
    assert not torch.equal(granted.labels, one.truth(1, 2)[1])  # which is in the order of the shard


def test_a_network_whose_labels_cannot_be_read_needs_them_granted() -> None:
    own = {"name": f"{__name__}:Own"}
    with pytest.raises(FedsimError, match=r"no class_embedding.*grant 'labels'"):
        campaigns(experiment(model=own, attacks=[ATTACK]))
    told = ATTACK | {"grants": ["labels", "noise", "steps"]}
    assert campaigns(experiment(model=own, attacks=[told]))
    experiment(model=own).check()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": TABLES["model"] | {"classes": 4}}, ["model.classes = 4", "data have 10"]),
        ({"task": TABLES["task"] | {"conditional": "yes please"}}, ["conditional", "'yes please'"]),
        ({"task": TABLES["task"] | {"conditonal": True}}, ["conditonal", "'conditional'"]),
    ],
)
def test_mistakes_are_found_before_anything_starts(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        experiment(**tables).check()
    for word in words:
        assert word in str(error.value)

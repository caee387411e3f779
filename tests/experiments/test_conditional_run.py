"""Runs whose networks are told classes: configuration alone, sampled class by class, and attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from adversary.diffusion.prior import student_generator
from experiments import Experiment, run
from experiments.campaigns import campaigns
from experiments.distilling import distill, teacher_of
from experiments.lessons import Lessons, learning_images
from fedsim.diffusion import ddim, denoiser
from fedsim.diffusion.student import load_student
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(experiment(), tmp_path_factory.mktemp("runs") / "conditional", quiet=True).folder


def test_a_students_classes_are_its_teachers(finished: Path, tmp_path: Path) -> None:
    """A copy of the teacher that is taught the teacher's own answers has nothing to learn, if both are told alike."""
    lessons = Lessons(steps=4, epochs=1, start="teacher")
    losses: list[float] = []
    distill(finished, tmp_path, lessons, told=lambda _, loss: losses.append(loss))
    assert losses[0] < 1e-3
    student, (_, task, teacher) = load_student(tmp_path), teacher_of(finished)
    start, labels = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 8])
    estimate = denoiser(lambda x, t: teacher(x, t, labels), task.goal.schedule, task.prediction, bound=1.0)
    with torch.no_grad():
        wanted = ddim(estimate, task.goal.schedule, start, student.fold.steps.flip(0))
        torch.testing.assert_close(student.sample(start, labels), wanted, atol=1e-3, rtol=0)
        assert not torch.allclose(student.sample(start, labels.flip(0)), wanted, atol=1e-2)
    with pytest.raises(FedsimError, match=r"student: labels = None.*10 classes"):
        student.sample(start)
    along = Lessons(steps=4, epochs=6, start="teacher", target="trajectory", substeps=2)
    distill(finished, tmp_path / "along", along, told=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[1]


def test_samples_of_the_teacher_are_of_all_classes_in_turn(finished: Path, tmp_path: Path) -> None:
    one, task, teacher = teacher_of(finished)
    lessons = Lessons(data="generated", images=12)
    images, labels = learning_images(one, task, teacher, lessons, tmp_path, "these")
    assert labels is not None
    assert labels.tolist() == [*range(10), 0, 1]
    again, _ = learning_images(one, task, teacher, lessons, tmp_path, "these")
    assert torch.equal(images, again)
    public, true = learning_images(one, task, teacher, Lessons(images=5), tmp_path, "these")
    assert true is not None
    assert torch.equal(true, one.test.labels[:5])
    assert len(public) == 5


def test_a_student_as_a_prior_makes_images_of_the_victims_labels(finished: Path, tmp_path: Path) -> None:
    student = distill(finished, tmp_path, Lessons(steps=3, epochs=1, start="teacher"))
    knowledge, labels = experiment().knowledge(), torch.tensor([5, 0])
    make = student_generator(tmp_path, knowledge, "cpu", labels=labels)
    draws = torch.randn(3, 2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = make(draws.flatten(0, 1))
        estimate = student.denoiser(labels, bound=None)
        schedule = student.fold.student
        alone = [ddim(estimate, schedule, draw, torch.tensor([2, 1, 0])) for draw in draws]
    torch.testing.assert_close(found, torch.cat(alone))
    with pytest.raises(FedsimError, match="told classes, and the victim's is told none"):
        student_generator(tmp_path, knowledge, "cpu")


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

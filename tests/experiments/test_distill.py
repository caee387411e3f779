"""``fedsim distill``: a finished diffusion run becomes a student on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments import Experiment, run
from experiments.distilling import Lessons, distill, teacher_of
from fedsim.diffusion.student import load_student
from fedsim.errors import FedsimError

CONFIG = Path(__file__).parents[2] / "experiments/configs/diffusion.toml"
SMALL = ["training.rounds=1", "data.clients=1", "data.train_size=32", "data.test_size=32", "model.widths=[8,8]",
         "task.count=0", "engine.workers=1", 'data.partition={name="iid"}']  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "diffusion"
    run(Experiment.load(CONFIG, SMALL), folder, quiet=True)
    return folder


def test_a_killed_distillation_ends_in_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(epoch: int, loss: float) -> None:
        if epoch == 1:
            raise KilledError

    lessons = Lessons(steps=4, epochs=3, batch_size=16)
    losses: list[float] = []
    distill(finished, tmp_path / "whole", lessons, told=lambda _, loss: losses.append(loss))
    with pytest.raises(KilledError):
        distill(finished, tmp_path / "killed", lessons, told=kill)
    distill(finished, tmp_path / "killed", lessons)
    for name in ("student.safetensors", "student.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert losses[-1] < losses[0]


def test_a_loaded_student_samples_as_the_one_that_was_saved(finished: Path, tmp_path: Path) -> None:
    student = distill(finished, tmp_path, Lessons(steps=3, epochs=1, data="generated", images=4))
    start = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_student(tmp_path).sample(start), student.sample(start))
    assert student.fold.steps.tolist()[-1] == len(student.fold.teacher) - 1


def test_mistakes_are_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="200 steps"):
        distill(finished, tmp_path / "a", Lessons(steps=201))
    with pytest.raises(FedsimError, match="does not exist"):
        teacher_of(tmp_path / "nowhere")
    with pytest.raises(FedsimError, match=r"there is no student\.json"):
        load_student(tmp_path)


def test_of_a_run_with_a_moving_average_that_is_the_teacher(tmp_path: Path) -> None:
    found = run(Experiment.load(CONFIG, [*SMALL, "training.ema=0.9"]), tmp_path, quiet=True)
    average = load_file(tmp_path / "average.safetensors")
    _, _, teacher = teacher_of(tmp_path)
    for name, tensor in teacher.state_dict().items():
        assert tensor.equal(average[f"network.{name}"])
    assert any(not tensor.equal(found.final_arrays[f"network.{n}"]) for n, tensor in teacher.state_dict().items())

"""``fedsim distill``: a finished diffusion run becomes a student on disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments import Experiment, cli, run
from experiments import lessons as taught
from experiments.distilling import distill, teacher_of
from experiments.lessons import Lessons
from fedsim.diffusion import ddim, denoiser
from fedsim.diffusion.student import load_student, save_student
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


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_more_epochs_go_on_to_what_they_would_have_been_at_once(finished: Path, tmp_path: Path, ema: float) -> None:
    lessons = Lessons(steps=3, epochs=2, batch_size=16, target="trajectory", start="teacher", substeps=2, ema=ema)
    distill(finished, tmp_path / "whole", lessons)
    distill(finished, tmp_path / "parts", replace(lessons, epochs=1))
    after_one = (tmp_path / "parts" / "student.safetensors").read_bytes()
    distill(finished, tmp_path / "parts", lessons)
    after_two = (tmp_path / "parts" / "student.safetensors").read_bytes()
    assert after_one != after_two == (tmp_path / "whole" / "student.safetensors").read_bytes()
    with pytest.raises(FedsimError, match=r"--epochs = 1: .* has learned for 2 already"):
        distill(finished, tmp_path / "parts", replace(lessons, epochs=1))


def test_one_that_begins_at_its_teacher_is_asked_at_the_teachers_steps(finished: Path, tmp_path: Path) -> None:
    """Its output is the target already, so that what is learned is nothing, and it samples as the teacher."""
    lessons = Lessons(steps=4, epochs=1, images=16, start="teacher")
    distill(finished, tmp_path, lessons)
    student, (_, task, teacher) = load_student(tmp_path), teacher_of(finished)
    start = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    estimate, steps = denoiser(teacher, task.goal.schedule, task.prediction, bound=1.0), student.fold.steps
    with torch.no_grad():
        assert torch.allclose(student.sample(start), ddim(estimate, task.goal.schedule, start, steps.flip(0)))
    assert steps.tolist() == [0, 66, 133, 199]


def test_samples_are_drawn_once(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = Lessons(steps=3, epochs=1, data="generated", images=4)
    distill(finished, tmp_path, lessons)
    kept = load_file(tmp_path / "samples.safetensors")["images"]
    assert kept.shape == (4, 1, 28, 28)
    assert float(kept.abs().max()) <= 1

    def drawn(*_: object) -> torch.Tensor:
        raise AssertionError("they are there")

    monkeypatch.setattr(taught, "_drawn", drawn)
    distill(finished, tmp_path, replace(lessons, epochs=2))
    (tmp_path / "samples.safetensors").write_bytes(b"torn")
    with pytest.raises(AssertionError, match="they are there"):
        distill(finished, tmp_path, replace(lessons, epochs=3))


def test_an_unfinished_student_is_no_student(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is written leaves the one that was there."""
    distill(finished, tmp_path, Lessons(steps=3, epochs=1, images=16))
    before = load_student(tmp_path)

    def torn(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        save_student(replace(before, network=before.network.apply(lambda part: part.half())), tmp_path)
    monkeypatch.undo()
    assert all(tensor.dtype == torch.float32 for tensor in load_student(tmp_path).network.state_dict().values())


def test_mistakes_are_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="200 steps"):
        distill(finished, tmp_path / "a", Lessons(steps=201))
    with pytest.raises(FedsimError, match="does not exist"):
        teacher_of(tmp_path / "nowhere")
    with pytest.raises(FedsimError, match=r"there is no student\.json"):
        load_student(tmp_path)
    with pytest.raises(FedsimError, match=r"--device = 'cuda:77': there is no such device here"):
        distill(finished, tmp_path / "a", Lessons(steps=2), device="cuda:77")
    for wrong in ({"target": "outputs"}, {"start": "zero"}, {"data": "private"}, {"substeps": 0}, {"ema": 1.0}):
        with pytest.raises(FedsimError, match=f"distill: {next(iter(wrong))}"):
            Lessons(**wrong)


@pytest.mark.parametrize("other", [{"steps": 4}, {"target": "trajectory"}, {"start": "teacher"}, {"images": 8}])
def test_a_folder_that_was_begun_in_another_way_is_left_alone(
    finished: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    lessons = Lessons(steps=3, epochs=1, images=16)
    distill(finished, tmp_path, lessons)
    before = (tmp_path / "student.safetensors").read_bytes()
    with pytest.raises(FedsimError, match=r"it was begun as .* Choose another --out"):
        distill(finished, tmp_path, replace(lessons, epochs=2, **other))
    assert (tmp_path / "student.safetensors").read_bytes() == before


def test_only_finished_diffusion_runs_can_be_distilled(finished: Path, tmp_path: Path) -> None:
    config = (finished / "experiment.toml").read_text()
    unfinished = shutil.copytree(finished, tmp_path / "unfinished")
    (unfinished / "experiment.toml").write_text(config.replace("rounds = 1\n", "rounds = 2\n"))
    with pytest.raises(FedsimError, match=r"1 of 2 rounds are finished.* --resume"):
        teacher_of(unfinished)
    classifier = tmp_path / "classifier"
    tiny = [
        "attacks=[]",
        "training.rounds=1",
        "data.clients=1",
        "data.train_size=32",
        "data.test_size=32",
        "engine.workers=1",
    ]
    run(
        Experiment.load(CONFIG.with_name("quickstart.toml"), [*tiny, "selection.clients_per_round=1"]),
        classifier,
        quiet=True,
    )
    with pytest.raises(FedsimError, match="its task is 'classification'"):
        distill(classifier, tmp_path / "student", Lessons())
    assert not (tmp_path / "student").exists()


def test_of_a_run_with_a_moving_average_that_is_the_teacher(tmp_path: Path) -> None:
    found = run(Experiment.load(CONFIG, [*SMALL, "training.ema=0.9"]), tmp_path, quiet=True)
    average = load_file(tmp_path / "average.safetensors")
    _, _, teacher = teacher_of(tmp_path)
    for name, tensor in teacher.state_dict().items():
        assert tensor.equal(average[f"network.{name}"])
    assert any(not tensor.equal(found.final_arrays[f"network.{n}"]) for n, tensor in teacher.state_dict().items())


def test_the_command_line_distils_and_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*changes: str) -> tuple[int, str]:
        told = ["--steps", "2", "--images", "16", "--target", "trajectory", "--start", "teacher", "--substeps", "2"]
        monkeypatch.setattr("sys.argv", ["fedsim", "distill", str(finished), "--out", str(tmp_path), *told, *changes])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((captured.out + captured.err).split())

    assert call("--epochs", "1", "--device", "cpu")[0] == 0
    code, said = call("--epochs", "2")
    assert (code, "epoch 2/2" in said, "epoch 1/2" in said) == (0, True, False)
    assert load_student(tmp_path).asked_at == "teacher"
    code, said = call("--epochs", "2", "--learning-rate", "0.1")
    assert (code, "Choose another --out" in said) == (2, True)
    code, said = call("--device", "warp")
    assert (code, "--device = 'warp'" in said) == (2, True)

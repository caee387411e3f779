"""Distilling the global model of a finished diffusion run into a student of fewer steps, on the server.

The images are the server's own validation images where the run had some (``data.validation_size``), else the test
split; or samples of the teacher. None is a client's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments import checkpoint, config
from experiments.experiment import Experiment
from experiments.hardware import found_device
from experiments.lessons import Lessons, Loss, learning_images, loss_of
from experiments.run import AVERAGE
from experiments.run_folder import RunFolder
from fedsim import seeding
from fedsim.diffusion import fold
from fedsim.diffusion.student import Student, save_student
from fedsim.diffusion.unets import UNet, build
from fedsim.errors import FedsimError, invalid
from fedsim.tasks.diffusion import Diffusion
from fedsim.tasks.stepped import Stepped


def teacher_of(run: Path) -> tuple[Experiment, Diffusion, UNet]:
    """The experiment, task and network of a finished diffusion run: its moving average, where it has one.

    Raises:
        FedsimError: there is no run, it is of another task, unfinished, or its network has no features.
    """
    folder = RunFolder.open(run)
    experiment = Experiment(config.load(folder.experiment))
    if not isinstance(experiment.task, Diffusion):
        raise invalid("RUN", str(run), f"its task is {experiment.config.task.name!r}", "Give a run of task diffusion")
    last = checkpoint.read_last(folder.checkpoint)
    wanted, average = experiment.config.training.rounds, folder.path / AVERAGE
    averaged = experiment.config.training.ema > 0
    if last is None or last.round < wanted or (averaged and not average.is_file()):
        done = f"{last.round if last else 0} of {wanted} rounds are finished"
        raise invalid("RUN", str(run), done, "Finish it with fedsim run --resume")
    network = experiment.model()
    network.load_state_dict(load_file(average) if averaged else dict(last.arrays))
    if not isinstance(network, Stepped) or not isinstance(network.network, UNet):
        raise invalid("RUN", str(run), "its network has no features to distil", 'Train with model.name = "unet"')
    return experiment, experiment.task, network.network.eval()


def distill(
    run: Path,
    out: Path,
    lessons: Lessons,
    *,
    device: str | None = None,
    told: Callable[[int, float], None] | None = None,
) -> Student:
    """Distil the global model of a run; a call that was killed goes on after its last epoch, to the same bytes.

    So does one that asks for more epochs than were asked for before.

    Args:
        run: a finished run's folder.
        out: where the student goes.
        lessons: how it learns.
        device: where to compute; by default that of the run.
        told: is told the epoch and its mean loss.

    Raises:
        FedsimError: the run cannot be distilled, there is no such device, or ``out`` was begun in another way or has
            learned for longer.
    """
    experiment, task, teacher = teacher_of(run)
    where = experiment.device if device is None else found_device("--device", device)
    teacher = teacher.to(where)
    mapping = fold(task.goal.schedule, lessons.steps)
    table, shape, seed = experiment.config.model, experiment.data.input_shape, experiment.config.seed
    given = dict(table.parameters) | ({"classes": experiment.data.classes} if task.conditional else {})
    network = build(table.name, shape, seed=seeding.derive(seed, "distill", "student"), **given).to(where)
    if lessons.start == "teacher":
        network.load_state_dict(teacher.state_dict())
    student = Student(
        network,
        mapping,
        task.prediction,
        table.name,
        given,
        shape,
        asked_at="teacher" if lessons.start == "teacher" else "student",
    )
    course = _Course(student, loss_of(student, teacher, lessons), lessons, seed)
    # The weights stand for the run: the same --out must not go on with another teacher's lessons.
    begun = f"{lessons.described()} of {_fingerprint(teacher)}"
    done = course.resume(out, begun)
    images, labels = torch.empty(0), None
    if done < lessons.epochs:
        images, labels = learning_images(experiment, task, teacher, lessons, out, begun)
    images, labels = images.to(where), None if labels is None else labels.to(where)
    for epoch in range(done + 1, lessons.epochs + 1):
        loss = course.epoch(images, labels, epoch)
        checkpoint.write(out / "checkpoint", checkpoint.Checkpoint(epoch, {}, [{"begun": begun, **course.state()}]))
        if told is not None:
            told(epoch, loss)
    found = course.student()
    save_student(found, out)
    return found


class _Course:
    """A student on its way through the epochs, and all that it takes to go on from the last of them."""

    def __init__(self, student: Student, loss: Loss, lessons: Lessons, seed: int) -> None:
        self._student, self._loss, self._lessons, self._seed = student, loss, lessons, seed
        self._optimiser = torch.optim.Adam(student.network.parameters(), lr=lessons.learning_rate)
        self._average = None
        if lessons.ema:
            averaging = get_ema_multi_avg_fn(lessons.ema)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(student.network, multi_avg_fn=averaging)

    def student(self) -> Student:
        """As it is now."""
        if self._average is not None:
            self._student.network.load_state_dict(self._average.module.state_dict())
        self._student.network.eval()
        return self._student

    def epoch(self, images: Tensor, labels: Tensor | None, number: int) -> float:
        """One pass over the images, of these classes if any; its mean loss. All draws are of the seed and number."""
        generator = seeding.generator(self._seed, "distill", "epoch", number)
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for positions in torch.split(order, self._lessons.batch_size):
            x_0 = images[positions.to(images.device)]
            noise = torch.randn(x_0.shape, generator=generator).to(images.device)
            t = torch.randint(self._lessons.steps, (len(x_0),), generator=generator).to(images.device)
            own = None if labels is None else labels[positions.to(images.device)]
            loss = self._loss(x_0, noise, t, own)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            if self._average is not None:
                self._average.update_parameters(self._student.network)
            total += float(loss.detach()) * len(x_0)
        return total / len(images)

    def state(self) -> dict[str, Any]:
        """Weights, their average if there is one, and the optimiser's state."""
        average = {} if self._average is None else dict(self._average.state_dict())
        weights = dict(self._student.network.state_dict())
        return {"arrays": weights, "average": average, "optimiser": self._optimiser.state_dict()}

    def resume(self, out: Path, begun: str) -> int:
        """Take up the last epoch; its number, or 0."""
        out.mkdir(parents=True, exist_ok=True)
        last = checkpoint.read_last(out / "checkpoint")
        if last is None:
            return 0
        content = last.strategy[0]
        if content["begun"] != begun:
            raise FedsimError(
                f"--out = {str(out)!r}: it was begun as {content['begun']}, not {begun}. Choose another --out."
            )
        if last.round > self._lessons.epochs:
            raise FedsimError(
                f"--epochs = {self._lessons.epochs}: the student in {str(out)!r} has learned for {last.round} already. "
                "Ask for as many or more, or choose another --out."
            )
        self._student.network.load_state_dict(content["arrays"])
        if self._average is not None:
            self._average.load_state_dict(content["average"])
        self._optimiser.load_state_dict(content["optimiser"])
        return last.round


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

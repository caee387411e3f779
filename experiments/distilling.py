"""Distilling the global model of a finished diffusion run into a student of fewer steps, on the server.

The images are the server's own validation images where the run had some (``data.validation_size``), else the test
split; or samples of the teacher. None is a client's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments import checkpoint, config
from experiments.experiment import Experiment
from experiments.run import AVERAGE
from experiments.run_folder import RunFolder
from fedsim import seeding
from fedsim.diffusion import ddim, denoiser, distillation_loss, fold
from fedsim.diffusion.distillation import Fold
from fedsim.diffusion.student import Student, save_student
from fedsim.diffusion.unets import UNet, build
from fedsim.errors import FedsimError, invalid
from fedsim.tasks.diffusion import Diffusion, Stepped

Source = Literal["public", "generated"]
SAMPLING_STEPS = 50
SAMPLES = 64


@dataclass(frozen=True)
class Lessons:
    """How a student learns.

    Attributes:
        steps: T' of the student.
        epochs: over the images.
        data: ``public`` or ``generated``.
        images: how many at most; how many samples, where they are generated.
        batch_size: of each step of Adam.
        learning_rate: the authors' 2e-4.
    """

    steps: int = 8
    epochs: int = 10
    data: Source = "public"
    images: int = 10_000
    batch_size: int = 64
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "images", "batch_size"):
            if getattr(self, name) < 1:
                raise invalid(f"distill: {name}", getattr(self, name), "must be 1 or more", "Correct it")
        if not self.learning_rate > 0:
            raise invalid("distill: learning_rate", self.learning_rate, "must be above 0", "The authors take 2e-4")
        if self.data not in ("public", "generated"):
            raise invalid("distill: data", self.data, "is not known", 'Give "public" or "generated"')


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
    if experiment.task.conditional:
        problem = "its network is told classes, and students are told none"
        raise invalid("RUN", str(run), problem, "Train with task.conditional = false")
    if not isinstance(network, Stepped) or not isinstance(network.network, UNet):
        raise invalid("RUN", str(run), "its network has no features to distil", 'Train with model.name = "unet"')
    return experiment, experiment.task, network.network.eval()


def distill(run: Path, out: Path, lessons: Lessons, *, told: Callable[[int, float], None] | None = None) -> Student:
    """Distil the global model of a run; a call that was killed goes on after its last epoch, to the same bytes.

    Args:
        run: a finished run's folder.
        out: where the student goes.
        lessons: how it learns.
        told: is told the epoch and its mean loss.

    Raises:
        FedsimError: the run cannot be distilled, or ``out`` was begun in another way.
    """
    experiment, task, teacher = teacher_of(run)
    mapping = fold(task.goal.schedule, lessons.steps)
    table, shape, seed = experiment.config.model, experiment.data.input_shape, experiment.config.seed
    network = build(table.name, shape, seed=seeding.derive(seed, "distill", "student"), **table.parameters)
    optimiser = torch.optim.Adam(network.parameters(), lr=lessons.learning_rate)
    # The weights stand for the run: the same --out must not go on with another teacher's lessons.
    begun = f"{lessons} of {_fingerprint(teacher)}"
    done = _resume(out, network, optimiser, begun)
    images = _images(experiment, task, teacher, lessons) if done < lessons.epochs else torch.empty(0)
    for epoch in range(done + 1, lessons.epochs + 1):
        loss = _epoch(network, teacher, mapping, images, optimiser, lessons, seed, epoch)
        content = {"begun": begun, "arrays": dict(network.state_dict()), "optimiser": optimiser.state_dict()}
        checkpoint.write(out / "checkpoint", checkpoint.Checkpoint(epoch, {}, [content]))
        if told is not None:
            told(epoch, loss)
    student = Student(network.eval(), mapping, task.prediction, table.name, table.parameters, shape)
    save_student(student, out)
    return student


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _resume(out: Path, network: nn.Module, optimiser: torch.optim.Optimizer, begun: str) -> int:
    """Take up the last epoch's weights; its number, or 0."""
    out.mkdir(parents=True, exist_ok=True)
    last = checkpoint.read_last(out / "checkpoint")
    if last is None:
        return 0
    content = last.strategy[0]
    if content["begun"] != begun:
        raise FedsimError(
            f"--out = {str(out)!r}: it was begun as {content['begun']}, not {begun}. Choose another --out."
        )
    network.load_state_dict(content["arrays"])
    optimiser.load_state_dict(content["optimiser"])
    return last.round


def _images(experiment: Experiment, task: Diffusion, teacher: UNet, lessons: Lessons) -> Tensor:
    """What the student learns on, float32 [N, C, H, W] in [-1, 1]."""
    if lessons.data == "public":
        held_out = experiment.validation or experiment.test
        return held_out.images[: lessons.images].float() / 127.5 - 1
    schedule = task.goal.schedule
    estimate = denoiser(teacher, schedule, task.prediction, bound=1.0)
    steps = schedule.spaced(min(SAMPLING_STEPS, len(schedule))).flip(0)
    generator = seeding.generator(experiment.config.seed, "distill", "samples")
    start = torch.randn(lessons.images, *experiment.data.input_shape, generator=generator)
    with torch.no_grad():
        return torch.cat([ddim(estimate, schedule, part, steps) for part in torch.split(start, SAMPLES)])


def _epoch(
    network: nn.Module,
    teacher: UNet,
    mapping: Fold,
    images: Tensor,
    optimiser: torch.optim.Optimizer,
    lessons: Lessons,
    seed: int,
    epoch: int,
) -> float:
    """One pass over the images; its mean loss. All draws are of the seed and the epoch."""
    generator = seeding.generator(seed, "distill", "epoch", epoch)
    total = 0.0
    assert isinstance(network, UNet)  # the teacher is one, and both are built alike
    order = torch.randperm(len(images), generator=generator)
    for positions in torch.split(order, lessons.batch_size):
        x_0 = images[positions]
        noise = torch.randn(x_0.shape, generator=generator)
        t = torch.randint(lessons.steps, (len(x_0),), generator=generator)
        loss = distillation_loss(network.features, teacher.features, mapping, x_0, noise, t)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach()) * len(x_0)
    return total / len(images)

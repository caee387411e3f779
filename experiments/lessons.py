"""What a student is taught: its lessons, the images they are on, and the loss of a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from experiments.experiment import Experiment
from experiments.run_folder import write_atomically
from fedsim import seeding
from fedsim.diffusion import UNet, ddim, denoiser, distillation_loss, told, trajectory_loss
from fedsim.diffusion.student import Student
from fedsim.errors import invalid, unknown
from fedsim.tasks.diffusion import Diffusion

Source = Literal["public", "generated"]
Target = Literal["output", "trajectory"]
Start = Literal["random", "teacher"]

SAMPLING_STEPS = 50
SAMPLES = 64
"""Drawn at once."""
DRAWN = "samples.safetensors"
"""What a teacher drew for its student, beside the student."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""The mean loss of images in [-1, 1] and noise, both [N, C, H, W], at the student's steps int64 [N], and of the images'
classes int64 [N] where networks are told them."""


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
        target: ``output``, the teacher's answers and features, as published; or ``trajectory``, where the teacher's
            sampling leads, see ``fedsim.diffusion.trajectory``.
        start: ``random`` weights, as published; or those of the ``teacher``, whose steps the student is then asked at.
        substeps: of the teacher for one of the student, where the target is its trajectory.
        ema: decay of the moving average of the student's weights, which becomes the student; 0, as published, for none.
    """

    steps: int = 8
    epochs: int = 10
    data: Source = "public"
    images: int = 10_000
    batch_size: int = 64
    learning_rate: float = 2e-4
    target: Target = "output"
    start: Start = "random"
    substeps: int = 8
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "images", "batch_size", "substeps"):
            if getattr(self, name) < 1:
                raise invalid(f"distill: {name}", getattr(self, name), "must be 1 or more", "Correct it")
        if not self.learning_rate > 0:
            raise invalid("distill: learning_rate", self.learning_rate, "must be above 0", "The authors take 2e-4")
        if not 0 <= self.ema < 1:
            raise invalid("distill: ema", self.ema, "must be 0 or more, and below 1", "Give 0.99 for instance")
        for name, kind in (("data", Source), ("target", Target), ("start", Start)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(f"distill: {name}", str(getattr(self, name)), get_args(kind))

    def described(self) -> dict[str, Any]:
        """All that must not change when a student goes on learning: everything but the number of epochs."""
        return {name: value for name, value in asdict(self).items() if name != "epochs"}


def loss_of(student: Student, teacher: UNet, lessons: Lessons) -> Loss:
    """What a student's batch is judged by.

    Args:
        student: whose network is taught; a ``UNet``, as the teacher is.
        teacher: in evaluation mode.
        lessons: name the target.
    """
    network = student.network
    if not isinstance(network, UNet):
        raise TypeError("a student is built as its teacher is, which is a UNet")

    def by_output(x_0: Tensor, noise: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        def asked(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return network.features(x, student.asked(t), labels)

        def asked_teacher(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return teacher.features(x, t, labels)

        return distillation_loss(asked, asked_teacher, student.fold, x_0, noise, t)

    def by_trajectory(x_0: Tensor, noise: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        how: dict[str, Any] = {"prediction": student.prediction, "substeps": lessons.substeps, "labels": labels}
        return trajectory_loss(student, teacher, student.fold, x_0, noise, t, **how)

    return by_output if lessons.target == "output" else by_trajectory


def learning_images(
    experiment: Experiment, task: Diffusion, teacher: UNet, lessons: Lessons, out: Path, of: str
) -> tuple[Tensor, Tensor | None]:
    """What the student learns on, float32 [N, C, H, W] in [-1, 1], on the CPU; and their classes, if it is told any.

    Args:
        experiment: of the run.
        task: its task.
        teacher: its network; on its device samples are drawn.
        lessons: which images, and how many.
        out: folder where samples are kept, so that they are drawn once.
        of: what they depend on; those of anything else are drawn anew.
    """
    if lessons.data == "public":
        held_out = experiment.validation or experiment.test
        labels = held_out.labels[: lessons.images] if task.conditional else None
        return held_out.images[: lessons.images].float() / 127.5 - 1, labels
    path = out / DRAWN
    kept = _kept(path, of)
    labels = torch.arange(lessons.images) % experiment.data.classes if task.conditional else None
    if kept is None:
        kept = _drawn(experiment, task, teacher, lessons.images, labels)
        write_atomically(path, safetensors.torch.save({"images": kept}, {"of": of}))
    return kept, labels


def _kept(path: Path, of: str) -> Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return file.get_tensor("images") if metadata.get("of") == of else None
    except (OSError, SafetensorError):
        return None


@torch.no_grad()
def _drawn(experiment: Experiment, task: Diffusion, teacher: UNet, count: int, labels: Tensor | None) -> Tensor:
    schedule = task.goal.schedule
    steps = schedule.spaced(min(SAMPLING_STEPS, len(schedule))).flip(0)
    generator = seeding.generator(experiment.config.seed, "distill", "samples")
    start = torch.randn(count, *experiment.data.input_shape, generator=generator)
    device = next(teacher.parameters()).device
    found = []
    for positions in torch.split(torch.arange(count), SAMPLES):
        own = None if labels is None else labels[positions].to(device)
        estimate = denoiser(told(teacher, own), schedule, task.prediction, bound=1.0)
        found.append(ddim(estimate, schedule, start[positions].to(device), steps).cpu())
    return torch.cat(found)

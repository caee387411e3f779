"""Students of a distillation on disk: weights in safetensors, what it takes to use them in JSON, nothing pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fedsim.diffusion.denoising import Denoiser, denoiser
from fedsim.diffusion.distillation import Fold
from fedsim.diffusion.objective import told
from fedsim.diffusion.parametrisation import Prediction
from fedsim.diffusion.samplers import ddim
from fedsim.diffusion.schedules import Schedule
from fedsim.diffusion.unets import build
from fedsim.errors import FedsimError, invalid
from fedsim.models import InputShape

WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"


@dataclass(frozen=True, eq=False)
class Student:
    """A distilled network, and what it takes to sample from it.

    Attributes:
        network: a UNet or the like, with its weights; ``student(x, t)`` asks it.
        fold: which of the teacher's steps those are.
        prediction: ``epsilon`` or ``v``, the teacher's.
        name: the network's, in ``NETWORKS``.
        parameters: the network's.
        input_shape: channels, height, width.
        asked_at: whether the network is told the ``student``'s steps t or the ``teacher``'s ``phi_t``, as one must be
            that has begun at the teacher's weights.
    """

    network: nn.Module
    fold: Fold
    prediction: Prediction
    name: str
    parameters: Mapping[str, Any]
    input_shape: InputShape
    asked_at: Literal["student", "teacher"] = "student"

    @property
    def classes(self) -> int:
        """How many the network is told apart; 0 if it is told none."""
        return int(self.parameters.get("classes", 0))

    def asked(self, t: Tensor) -> Tensor:
        """The steps that the network is told for the student's own, both int64 [N]."""
        return self.fold.of_teacher(t) if self.asked_at == "teacher" else t

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noise or velocity [N, C, H, W] of noisy images [N, C, H, W] at the student's steps int64 [N].

        Args:
            x: noisy images.
            t: their steps.
            labels: their classes, int64 [N], of a network that is told them.

        Raises:
            FedsimError: the network is told classes and none are given, or the other way round.
        """
        if (labels is None) == bool(self.classes):
            shown = None if labels is None else labels.tolist()
            remedy = "Give one an image" if self.classes else "Leave them out"
            raise invalid("student: labels", shown, f"the student is told {self.classes or 'no'} classes", remedy)
        answer: Tensor = told(self.network, labels)(x, self.asked(t))
        return answer

    def denoiser(self, labels: Tensor | None = None, *, bound: float | None = 1.0) -> Denoiser:
        """The images it sees in noisy ones, at its own steps; of classes int64 [N] where it is told them."""
        self.network.eval()
        return denoiser(told(self, labels), self.fold.student, self.prediction, bound=bound)

    def sample(self, start: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images in [-1, 1] by DDIM over all its steps, from standard normal numbers; both [N, C, H, W].

        Args:
            start: the numbers.
            labels: classes of the images, int64 [N], of a network that is told them.
        """
        schedule = self.fold.student
        return ddim(self.denoiser(labels), schedule, start, schedule.spaced(len(schedule)).flip(0))


def save_student(student: Student, folder: Path) -> None:
    """Write ``student.safetensors`` and, after it, ``student.json`` into a folder that is there, each atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()}
    _replace(folder / WEIGHTS, save(weights))
    described = {
        "network": student.name,
        "parameters": dict(student.parameters),
        "input_shape": list(student.input_shape),
        "prediction": student.prediction,
        "steps": student.fold.steps.tolist(),
        "alpha_bar": student.fold.teacher.alpha_bar.tolist(),
        "asked_at": student.asked_at,
    }
    _replace(folder / DESCRIPTION, (json.dumps(described, indent=1) + "\n").encode())


def load_student(folder: Path | str) -> Student:
    """The student that ``fedsim distill`` wrote into a folder.

    Raises:
        FedsimError: a file is missing or damaged, or the network cannot be built.
    """
    path = Path(folder)
    for name in (DESCRIPTION, WEIGHTS):
        if not (path / name).is_file():
            raise FedsimError(
                f"student = {str(path)!r}: there is no {name}. Give the --out of a finished fedsim distill."
            )
    try:
        told = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        shape = cast("InputShape", tuple(told["input_shape"]))
        parameters: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in told["parameters"].items()
        }
        teacher = Schedule(torch.tensor(told["alpha_bar"], dtype=torch.float64))
        fold = Fold(teacher, torch.tensor(told["steps"], dtype=torch.int64))
        network = build(told["network"], shape, **parameters)
        network.load_state_dict(load_file(path / WEIGHTS))
        given = told["prediction"], told["network"], parameters, shape
        return Student(network.eval(), fold, *given, asked_at=told.get("asked_at", "student"))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FedsimError(f"student = {str(path)!r}: its files are damaged ({error}). Distil it again.") from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)

"""SFDDM: a student with any number of steps learns from a teacher in one training run.

Hong, Huang, Birke, Epema, Roos, Chen 2024, arXiv:2405.14961. The student's step t has the noise of the teacher's step
``phi_t``, so that ``x'_t = x_{phi_t}``: what the student is asked at t, the teacher can answer at ``phi_t``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from fedsim.diffusion.parametrisation import noised
from fedsim.diffusion.schedules import Schedule
from fedsim.errors import invalid

Answer = TypeVar("Answer")

Featured = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A network's answer [N, ...], and the hidden features before its last layer [N, ...]; ``UNet.features`` is one."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Which of the teacher's steps the student takes.

    Attributes:
        teacher: its schedule, of T steps.
        steps: phi, rising, int64 [T'].

    Raises:
        FedsimError: the steps do not rise, or are not the teacher's.
    """

    teacher: Schedule
    steps: Tensor

    def __post_init__(self) -> None:
        phi = self.steps
        inside = len(phi) > 0 and int(phi.min()) >= 0 and int(phi.max()) < len(self.teacher)
        if not inside or bool((phi.diff() <= 0).any()):
            given = phi.tolist()
            raise invalid("fold: steps", given, f"must rise within 0 and {len(self.teacher) - 1}", "Correct them")

    @cached_property
    def student(self) -> Schedule:
        """The student's schedule: ``alpha_bar'_t = alpha_bar_{phi_t}``."""
        return Schedule(self.teacher.alpha_bar[self.steps])

    def of_teacher(self, t: Tensor) -> Tensor:
        """The teacher's steps for the student's, int64 [N]."""
        return self.steps.to(t.device)[t]


def fold(teacher: Schedule, count: int) -> Fold:
    """A fold into ``count`` steps spread evenly from the teacher's first to its last.

    It ends at T - 1, as noisy as what sampling starts from. ``published_fold`` does not.

    Raises:
        FedsimError: the teacher has not as many steps.
    """
    return Fold(teacher, teacher.spaced(count))


def published_fold(teacher: Schedule, count: int) -> Fold:
    """The authors' fold, ``phi_t = floor(t T / T')``.

    Its last step is T - T / T': for few steps, sampling from pure noise starts where the student has never been.

    Raises:
        FedsimError: the teacher has not as many steps.
    """
    teacher.spaced(count)
    return Fold(teacher, torch.arange(count) * len(teacher) // count)


def distillation_target(teacher: Featured, fold: Fold, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What the student should answer and how it should see: the teacher's answer and features, without gradients.

    Args:
        teacher: a network in evaluation mode, with its features.
        fold: of its schedule.
        x: noisy images at the student's steps, [N, ...].
        t: the student's steps, int64 [N].
    """
    with torch.no_grad():
        return teacher(x, fold.of_teacher(t))


def distillation_loss(
    student: Featured,
    teacher: Featured,
    fold: Fold,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    feature_weight: float = 1.0,
) -> Tensor:
    """``mean |out_S - out_T| + w mean |h_S - h_T|`` on the same noisy images, a scalar.

    Args:
        student: asked at its own steps t; features of the same shape as the teacher's.
        teacher: asked at ``phi_t``.
        fold: of the teacher's schedule.
        x_0: images scaled to [-1, 1], [N, ...].
        noise: standard normal, of the images' shape.
        t: the student's steps, int64 [N].
        feature_weight: w; the authors' 1.

    Raises:
        FedsimError: a step is not of the student's schedule, or the features' shapes differ.
    """
    a, b = fold.student.scales(t, x_0)
    x = noised(x_0, noise, a, b)
    wanted, wanted_features = distillation_target(teacher, fold, x, t)
    answer, features = student(x, t)
    if features.shape != wanted_features.shape:
        raise invalid(
            "distillation: the student's features",
            list(features.shape),
            f"the teacher's are {list(wanted_features.shape)}",
            "Build both alike, or project the student's",
        )
    return l1_loss(answer, wanted) + feature_weight * l1_loss(features, wanted_features)


def at_teacher_steps(network: Callable[[Tensor, Tensor], Answer], fold: Fold) -> Callable[[Tensor, Tensor], Answer]:
    """The teacher's network, or a student that starts as its copy, as a network over the student's steps."""

    def answer(x: Tensor, t: Tensor) -> Answer:
        return network(x, fold.of_teacher(t))

    return answer

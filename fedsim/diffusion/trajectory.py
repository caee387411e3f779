"""A student of one fold that is taught where its teacher's sampling leads, and not what the teacher says on the way.

A perfect student of SFDDM's published target draws over its T' steps exactly what its teacher draws over the same T',
errors of the long steps included. Here a step of the student is to land where the teacher lands by many steps over the
same stride: the target of progressive distillation (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2), over a whole
stride at once in place of halving by halving.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fedsim.diffusion.denoising import denoiser, spread
from fedsim.diffusion.distillation import Fold
from fedsim.diffusion.objective import LabelledNetwork, told
from fedsim.diffusion.parametrisation import Prediction, check_prediction, from_velocity, noise_from_image, noised
from fedsim.diffusion.schedules import Schedule
from fedsim.errors import invalid

LEAST_SCALE = 0.1
"""Of the image, below which errors of predicted noise weigh no more in the loss: they would without bound."""

CLEAN = -1
"""The step below a schedule's first, where no noise is left."""


def trajectory_loss(
    student: LabelledNetwork,
    teacher: LabelledNetwork,
    fold: Fold,
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    prediction: Prediction,
    substeps: int = 8,
    labels: Tensor | None = None,
) -> Tensor:
    """``mean |v_S - v*|^2``, where ``v*`` leads from the student's step to its next as the teacher does by many.

    A velocity's error moves a step of DDIM by itself times the sine of the stride's angle, so that in velocities steps
    weigh by where they lead. Of predicted noise it is ``|e_S - e*|^2 / max(a, 0.1)^2``.

    Args:
        student: asked at its own steps t.
        teacher: asked at its own steps, in evaluation mode.
        fold: of the teacher's schedule.
        x_0: images scaled to [-1, 1], [N, ...].
        noise: standard normal, of the images' shape.
        t: the student's steps, int64 [N].
        prediction: what both networks answer with.
        substeps: see ``trajectory_target``.
        labels: classes of the images, int64 [N], of networks that are told them.

    Returns:
        A scalar.

    Raises:
        FedsimError: see ``trajectory_target``.
    """
    a, b = fold.student.scales(t, x_0)
    x = noised(x_0, noise, a, b)
    wanted = trajectory_target(teacher, fold, x, t, prediction=prediction, substeps=substeps, labels=labels)
    gap = told(student, labels)(x, t) - wanted
    return (gap if prediction == "v" else gap / a.clamp(min=LEAST_SCALE)).square().mean()


@torch.no_grad()
def trajectory_target(
    teacher: LabelledNetwork,
    fold: Fold,
    x: Tensor,
    t: Tensor,
    *,
    prediction: Prediction,
    substeps: int = 8,
    bound: float | None = 1.0,
    labels: Tensor | None = None,
) -> Tensor:
    """The answer that takes noisy images in one step of DDIM to where the teacher takes them in several.

    The image that it stands for is the mean of those that the teacher sees on the way, weighted by what each sub-step
    gains in a / b; so that it keeps their bound.

    Args:
        teacher: a network in evaluation mode; its answers are not differentiated.
        fold: of its schedule.
        x: noisy images at the student's steps, [N, ...].
        t: the student's steps, int64 [N]. The teacher goes from ``phi_t`` to ``phi_{t-1}``, or to the image.
        prediction: what teacher and student answer with.
        substeps: of the teacher's deterministic DDIM for each step, spread evenly over its own; where there are fewer
            of its own in between, all of those. With 1 the answer is the teacher's own.
        bound: the teacher's images are clamped to [-bound, bound], as in sampling.
        labels: classes of the images, int64 [N], of networks that are told them.

    Returns:
        Noise or velocity, [N, ...].

    Raises:
        FedsimError: a step is not of the student's, there are no sub-steps, or the prediction is unknown.
    """
    check_prediction(prediction, last_share=float(fold.teacher.alpha_bar[-1]))
    if substeps < 1:
        raise invalid("trajectory_target: substeps", substeps, "must be 1 or more", "Give 8 for instance")
    fold.student.shares(t, x)  # refuses steps that the student has not
    path = _path(fold, t, substeps)
    reached = x.clone()
    for now, after in pairwise(path):
        moving = now > after
        if not bool(moving.any()):
            continue
        y, start, end = reached[moving], now[moving], after[moving]
        asked = told(teacher, None if labels is None else labels[moving])
        estimate = denoiser(asked, fold.teacher, prediction, bound=bound)
        image = estimate(y, start)
        left = noise_from_image(y, image, *_scales(fold.teacher, start, y))
        reached[moving] = noised(image, left, *_scales(fold.teacher, end, y))
    return _answer(fold.teacher, x, reached, path[0], path[-1], prediction)


def _path(fold: Fold, t: Tensor, substeps: int) -> list[Tensor]:
    """The teacher's steps that each example goes through, int64 [N] before each sub-step and after the last."""
    phi = torch.cat([torch.tensor([CLEAN]), fold.steps.cpu()])
    rooms = phi.diff()
    count = min(substeps, int(rooms.max()))
    end, room = (table.to(t.device)[t] for table in (phi, rooms))
    # Rounded up, so that nobody is clean before the last sub-step; those without room for one stay where they are.
    return [end - (-room * (count - i)).div(count, rounding_mode="floor") for i in range(count + 1)]


def _scales(schedule: Schedule, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scales a and b, as of ``Schedule.scales``, of steps that may be ``CLEAN``."""
    bar = torch.cat([schedule.alpha_bar.new_ones(1), schedule.alpha_bar])[steps.cpu() - CLEAN]
    return spread(bar.sqrt(), like), spread((1 - bar).sqrt(), like)


def _answer(schedule: Schedule, x: Tensor, reached: Tensor, start: Tensor, end: Tensor, to: Prediction) -> Tensor:
    """What leads from x at one step to what was reached at another, by one step of DDIM.

    That step is a rotation of (x, v) by the angle between the two steps, ``x_s = cos(d) x_t - sin(d) v_t``, since
    ``a_t`` and ``b_t`` are an angle's cosine and sine.
    """
    (a, b), (a_s, b_s) = _scales(schedule, start, x), _scales(schedule, end, x)
    v = ((a * a_s + b * b_s) * x - reached) / (b * a_s - a * b_s)
    return v if to == "v" else from_velocity(x, v, a, b)[1]

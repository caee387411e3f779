"""Noise schedules: how much of an image is left at each step of a diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedsim.errors import FedsimError, invalid
from fedsim.registry import Registry

LARGEST_BETA = 0.999
"""No step takes more of the signal's power away than this, so that the last step is not pure noise."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The share of the signal at each step, ``x_t = a_t x_0 + b_t noise`` with ``a_t^2 + b_t^2 = 1``.

    Steps count from 0, the least noise, to T - 1, the most. Tables are float64: in float32, ``1 - alpha_bar``
    of the first steps keeps only three or four digits.

    Attributes:
        alpha_bar: ``a_t^2``, [T], falling, in [0, 1); only the last may be 0.

    Raises:
        FedsimError: the table is empty, not float64, leaves [0, 1), or does not fall.
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        bar = self.alpha_bar
        if bar.dtype != torch.float64 or bar.ndim != 1 or not len(bar):
            given = f"{bar.dtype} {list(bar.shape)}"
            raise invalid("schedule: alpha_bar", given, "must be a list of numbers in float64", "Convert it")
        inside = bool(((bar >= 0) & (bar < 1)).all()) and bool((bar[:-1] > 0).all())
        if not inside or bool((bar.diff() >= 0).any()):
            raise invalid(
                "schedule: alpha_bar",
                f"{bar[0]:.6g} .. {bar[-1]:.6g}",
                "must fall from step to step, below 1 at the first and above 0 before the last",
                "Choose another schedule, or other numbers of steps",
            )

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @property
    def alpha(self) -> Tensor:
        """``alpha_t = alpha_bar_t / alpha_bar_{t-1}``, [T]."""
        return self.alpha_bar / torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def beta(self) -> Tensor:
        """``1 - alpha_t``: the variance of the noise that step t adds, [T]."""
        return 1 - self.alpha

    @property
    def signal_to_noise(self) -> Tensor:
        """``alpha_bar / (1 - alpha_bar)``, [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def levels(self) -> Tensor:
        """``sigma_t = b_t / a_t``: the noise's deviation where the image is not shrunk, [T]; inf where a_t is 0."""
        return self.signal_to_noise.rsqrt()

    def shares(self, t: Tensor, like: Tensor) -> Tensor:
        """``alpha_bar_t`` for each example, [N, 1, ...], of the type and on the device of ``like`` [N, ...].

        Raises:
            FedsimError: a step is below 0 or above T - 1.
        """
        return self._look_up(self.alpha_bar, t, like)

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``a_t`` and ``b_t`` for each example, [N, 1, ...], of the type and on the device of ``like`` [N, ...].

        Raises:
            FedsimError: a step is below 0 or above T - 1.
        """
        bar = self.alpha_bar
        return self._look_up(bar.sqrt(), t, like), self._look_up((1 - bar).sqrt(), t, like)

    def spaced(self, count: int) -> Tensor:
        """``count`` steps spread evenly from 0 to T - 1, rising, int64 [count]; T - 1 alone where it is 1.

        Raises:
            FedsimError: there are not that many steps.
        """
        if not 1 <= count <= len(self):
            raise invalid("steps", count, f"the schedule has {len(self)} steps", "Ask for 1 to as many")
        if count == 1:
            return torch.tensor([len(self) - 1])
        return torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long()

    def _look_up(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        table = table.to(like.dtype).to(like.device)
        try:
            found = table.index_select(0, t.to(like.device))  # it refuses negative steps, which table[t] would not
        except IndexError as error:
            raise invalid("step", t.tolist(), f"steps run from 0 to {len(self) - 1}", "Count from 0") from error
        return found.reshape(-1, *[1] * (like.ndim - 1))


SCHEDULES: Registry[Schedule] = Registry("noise schedule", "fedsim.schedules")


def from_betas(beta: Tensor) -> Schedule:
    """The schedule of the variances that each step adds, float64 [T]."""
    return Schedule((1 - beta).cumprod(0))


@SCHEDULES.register("linear")
def linear(steps: int, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Variances that grow linearly; Ho et al. 2020, arXiv:2006.11239.

    Args:
        steps: T; for other values than 1000 the variances are multiplied by 1000 / T, so that the end is alike.
        first: beta_0 at T = 1000.
        last: beta_{T-1} at T = 1000.

    Raises:
        FedsimError: there are so few steps that a variance would be 1 or more.
    """
    _check_steps(steps)
    scale = 1000 / steps
    if scale * max(first, last) >= 1:
        raise invalid(
            "noise schedule linear: steps",
            steps,
            f"the last step would add noise of variance {scale * max(first, last):.3g}, and it must be below 1",
            "Take more steps, or the schedule 'cosine' or 'sigmoid'",
        )
    return from_betas(torch.linspace(scale * first, scale * last, steps, dtype=torch.float64))


@SCHEDULES.register("cosine")
def cosine(steps: int, offset: float = 0.008) -> Schedule:
    """``alpha_bar`` falls as a squared cosine; Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17.

    Args:
        steps: T.
        offset: s, which keeps the first steps from being too small.
    """
    return _from_curve(steps, lambda u: math.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2)


@SCHEDULES.register("sigmoid")
def sigmoid(steps: int) -> Schedule:
    """``alpha_bar`` falls as a logistic curve from -3 to 3; Jabri et al. 2022, arXiv:2212.11972.

    It is the schedule of GIDM (arXiv:2405.20380) and SFDDM (arXiv:2405.14961).

    Args:
        steps: T.
    """
    low, high = _logistic(-3), _logistic(3)
    return _from_curve(steps, lambda u: (high - _logistic(6 * u - 3)) / (high - low))


def zero_terminal(schedule: Schedule) -> Schedule:
    """The schedule stretched so that nothing of the image is left at the last step.

    A network trained on it samples from what it was trained on: pure noise. It needs v-prediction, since noise
    that is predicted perfectly says nothing of the image where a_t = 0. Lin et al. 2023, arXiv:2305.08891, algorithm 1.

    Raises:
        FedsimError: the schedule has only one step.
    """
    if len(schedule) < 2:
        raise invalid("schedule: steps", len(schedule), "one step cannot be stretched", "Take 2 or more")
    a = schedule.alpha_bar.sqrt()
    return Schedule(((a - a[-1]) * (a[0] / (a[0] - a[-1]))).square())


def _from_curve(steps: int, curve: Callable[[float], float]) -> Schedule:
    """``beta_t = 1 - curve((t + 1) / T) / curve(t / T)``, at most 0.999."""
    _check_steps(steps)
    points = [curve(t / steps) for t in range(steps + 1)]
    beta = [min(1 - after / now, LARGEST_BETA) for now, after in pairwise(points)]
    return from_betas(torch.tensor(beta, dtype=torch.float64))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise FedsimError(f"noise schedule: steps = {steps}: a diffusion has at least one step. Take 1 or more.")

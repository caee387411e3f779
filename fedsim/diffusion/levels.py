"""Lists of noise levels: those a chain moves on, and those an integrator walks down."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.diffusion.schedules import Schedule
from fedsim.errors import invalid


def geometric(count: int, lowest: float, highest: float) -> Tensor:
    """``sigma_k = lowest (highest / lowest)^{tau_k}``, tau from 1 to 1e-3: the highest level comes first.

    Kim and Ye 2023, arXiv:2209.14593, and the authors' code, which has 1000 of them.

    Args:
        count: K, 2 or more.
        lowest: just below the last level.
        highest: the first level.

    Returns:
        float64 [K], falling.

    Raises:
        FedsimError: fewer than two levels, or an order other than 0 < lowest < highest.
    """
    if count < 2:
        raise invalid("levels: count", count, "a chain over levels needs two of them", "Take 2 or more")
    _check_order(lowest, highest)
    return lowest * (highest / lowest) ** torch.linspace(1, 1e-3, count, dtype=torch.float64)


def karras(count: int, start: Tensor, lowest: float, *, bend: float = 7.0) -> Tensor:
    """Levels from a start, one's own for each image, to ``lowest``, denser near the end, and then 0.

    ``sigma_i = (start^{1/7} + l_i (lowest^{1/7} - start^{1/7}))^7``; Karras et al. 2022, arXiv:2206.00364, equation 5.

    Args:
        count: N levels, that 0 included; 3 or more.
        start: the highest level of each image, [N'].
        lowest: the last level above 0.
        bend: rho.

    Returns:
        float64 [N, N'], falling.

    Raises:
        FedsimError: too few levels, or a start that is not above ``lowest``.
    """
    if count < 3:
        raise invalid("levels: count", count, "a start, an end and 0 are three levels", "Take 3 or more")
    _check_order(lowest, float(start.min()))
    start = start.detach().double().cpu()
    way = torch.linspace(0, 1, count - 1, dtype=torch.float64)[:, None]
    powers = start ** (1 / bend) + way * (lowest ** (1 / bend) - start ** (1 / bend))
    return torch.cat([powers**bend, torch.zeros(1, len(start), dtype=torch.float64)])


def highest(schedule: Schedule, at_most: float = 80.0) -> float:
    """The highest level of a schedule that integrators should start at.

    Some schedules end in noise far above any image, or in pure noise, which has no level: beyond ``at_most`` nothing of
    an image is lost, while single precision loses digits of it.

    Raises:
        FedsimError: all levels are higher.
    """
    low = schedule.levels[schedule.levels <= at_most]
    if not len(low):
        raise invalid("levels: at_most", at_most, "all of the schedule's are higher", "Take another schedule")
    return float(low.max())


def _check_order(lowest: float, above: float) -> None:
    if not 0 < lowest < above:
        raise invalid("levels: lowest", lowest, f"must be above 0 and below {above:.6g}", "Correct it")

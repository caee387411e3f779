"""Heun's method on the probability-flow equation, from noise to images down a list of noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedsim.diffusion.denoising import LevelDenoiser, Noise, spread
from fedsim.errors import invalid


@dataclass(frozen=True)
class Churn:
    """Noise put back before each step; Karras et al. 2022, arXiv:2206.00364, algorithm 2.

    The levels are those of Kim and Ye (arXiv:2209.14593), doubled: theirs hold for images in [0, 1], these for [-1, 1].

    Attributes:
        growth: by which share the level is raised before a step; ``min(S_churn / N, sqrt(2) - 1)`` in the paper.
        lowest: levels below are left as they are.
        highest: levels above are left as they are.
        inflation: of the noise put back, S_noise.
    """

    growth: float = math.sqrt(2) - 1
    lowest: float = 0.1
    highest: float = 2.0
    inflation: float = 1.007


def heun(
    denoise: LevelDenoiser, y: Tensor, levels: Tensor, *, churn: Churn | None = None, noise: Noise | None = None
) -> Tensor:
    """Integrate ``dy / dsigma = (y - x_0(y, sigma)) / sigma`` downwards; differentiable, nothing in place.

    Each step asks the denoiser twice, but for one to the level 0, which is Euler's and asks once. DDIM is
    Euler's method on the same equation.

    Args:
        denoise: x_0 of y.
        y: noisy images at the first level, [N, ...]: ``x_t / a_t``, or ``sigma`` times standard normal numbers
            where sigma is large.
        levels: falling, float64 [S], or [S, N] for each image its own; only the last may be 0.
        churn: noise put back on the way; None for none.
        noise: where there is churn.

    Returns:
        The images at the last level, [N, ...].

    Raises:
        FedsimError: the levels do not fall to 0 or above it, or there is churn without noise.
    """
    if churn is not None and noise is None:
        raise invalid("heun: churn", churn, "draws noise, and there is none to draw from", "Give noise, or no churn")
    for start, after in pairwise(checked_levels(levels, len(y))):
        now = start
        if churn is not None and noise is not None:
            y, now = _churned(y, start, churn, noise)
        y = _step(denoise, y, now, after)
    return y


def _step(denoise: LevelDenoiser, y: Tensor, now: Tensor, after: Tensor) -> Tensor:
    width = spread(after - now, y)
    slope = (y - denoise(y, now.to(y))) / spread(now, y)
    moved = y + width * slope
    if bool((after == 0).all()):  # the slope at 0 is not defined
        return moved
    slope_there = (moved - denoise(moved, after.to(y))) / spread(after, y)
    return y + width * (slope + slope_there) / 2


def _churned(y: Tensor, level: Tensor, churn: Churn, noise: Noise) -> tuple[Tensor, Tensor]:
    """The images with noise put back, and their levels, which are higher where that is wanted."""
    inside = (level >= churn.lowest) & (level <= churn.highest)
    raised = torch.where(inside, level * (1 + churn.growth), level)
    added = (raised.square() - level.square()).sqrt()
    return y + spread(added * churn.inflation, y) * noise(y), raised


def checked_levels(levels: Tensor, images: int) -> Tensor:
    """Levels as each of the images has them, float64 [S, N] on the CPU.

    Args:
        levels: [S], or [S, N].
        images: N.

    Raises:
        FedsimError: they do not fall to 0 or above it.
    """
    levels = levels.detach().double().cpu()
    levels = levels if levels.ndim == 2 else levels[:, None].expand(-1, images)
    falling = len(levels) > 1 and bool((levels.diff(dim=0) < 0).all())
    ends = levels[-1] == 0
    if not falling or bool((levels < 0).any()) or bool(ends.any()) != bool(ends.all()):
        raise invalid(
            "noise levels",
            [round(float(level), 6) for level in levels[:, 0]],
            f"for each of the {levels.shape[1]} images they must be two or more, fall, and end above 0, or all at 0",
            "Order and correct them",
        )
    return levels

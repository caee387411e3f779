"""From noisy images down to clean ones, each along levels of its own: DDPM, DDIM or Heun by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

from fedsim.diffusion.denoising import LevelDenoiser, Noise, spread
from fedsim.diffusion.flow import Churn, checked_levels, heun
from fedsim.errors import unknown

Integrator = Literal["heun", "ddim", "ddpm"]


def euler(denoise: LevelDenoiser, y: Tensor, levels: Tensor) -> Tensor:
    """DDIM in the coordinates of levels: Euler's method on the probability flow.

    Song, Meng, Ermon 2020, arXiv:2010.02502, equation 12 with sigma = 0, divided by ``a``.

    Args:
        denoise: x_0 of y.
        y: noisy images at the first level, [N, ...].
        levels: falling, float64 [S], or [S, N] for each image its own; only the last may be 0.

    Returns:
        The images at the last level, [N, ...].

    Raises:
        FedsimError: the levels do not fall to 0 or above it.
    """
    for now, after in pairwise(checked_levels(levels, len(y))):
        x_0 = denoise(y, now.to(y))
        y = x_0 + spread(after / now, y) * (y - x_0)
    return y


def ancestral(denoise: LevelDenoiser, y: Tensor, levels: Tensor, noise: Noise) -> Tensor:
    """DDPM in the coordinates of levels: each step draws from the posterior of the next noisy image.

    Ho et al. 2020, arXiv:2006.11239, equation 7 divided by ``a``: with ``r = after^2 / now^2`` the mean is
    ``x_0 + r (y - x_0)`` and the variance ``after^2 (1 - r)``.

    Args:
        denoise: x_0 of y.
        y: noisy images at the first level, [N, ...].
        levels: as ``euler`` takes them.
        noise: asked once a step, but for one to level 0.

    Raises:
        FedsimError: the levels do not fall to 0 or above it.
    """
    for now, after in pairwise(checked_levels(levels, len(y))):
        x_0, kept = denoise(y, now.to(y)), (after / now).square()
        y = x_0 + spread(kept, y) * (y - x_0)
        if bool((after > 0).any()):
            y = y + spread(after * (1 - kept).sqrt(), y) * noise(y)
    return y


def integrate(
    by: Integrator, denoise: LevelDenoiser, y: Tensor, levels: Tensor, noise: Noise, *, churn: Churn | None = None
) -> Tensor:
    """The images at the last level, [N, ...], by the integrator of that name.

    Args:
        by: ``heun``, ``ddim`` or ``ddpm``.
        denoise: x_0 of y.
        y: noisy images at the first level, [N, ...].
        levels: as ``euler`` takes them.
        noise: of ``ddpm`` and of churn.
        churn: of ``heun``; the others have none.

    Raises:
        FedsimError: no integrator is called that, or the levels do not fall to 0 or above it.
    """
    if by == "heun":
        return heun(denoise, y, levels, churn=churn, noise=noise)
    if by == "ddim":
        return euler(denoise, y, levels)
    if by == "ddpm":
        return ancestral(denoise, y, levels, noise)
    raise unknown("integrator", by, get_args(Integrator))


def calls(by: Integrator, levels: int) -> int:
    """How often the denoiser is asked on the way down that many levels, the final 0 included."""
    return 2 * levels - 3 if by == "heun" else levels - 1

"""DDPM and DDIM: from noise to images over any falling steps of a schedule.

Nothing in here turns gradients off or changes a tensor in place: what comes out is differentiable by what goes in.
Sample under ``torch.no_grad()`` where that is not wanted, for otherwise every call of the network stays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from fedsim.diffusion.denoising import Denoiser, Noise
from fedsim.diffusion.parametrisation import noise_from_image
from fedsim.diffusion.schedules import Schedule
from fedsim.errors import FedsimError, invalid


def ddpm(denoise: Denoiser, schedule: Schedule, x: Tensor, steps: Tensor, noise: Noise) -> Tensor:
    """Ancestral sampling; Ho et al. 2020, arXiv:2006.11239, algorithm 2, with the posterior's variance.

    Args:
        denoise: x_0 of x_t.
        schedule: of the training.
        x: standard normal numbers, [N, ...]; the noisy images at the first of the steps.
        steps: falling, int64 [S]. All of them is the published sampler; a share of them skips in between.
        noise: asked once a step, but for the last.

    Returns:
        Images, [N, ...].

    Raises:
        FedsimError: the steps do not fall, or are not of the schedule.
    """
    for t, now, after in transitions(schedule, steps):
        x_0 = denoise(x, _everywhere(t, x))
        kept = now / after  # alpha_t, or the product of those skipped
        # Equation 7: the mean of q(x_s | x_t, x_0) and its variance
        mean = math.sqrt(after) * (1 - kept) / (1 - now) * x_0 + math.sqrt(kept) * (1 - after) / (1 - now) * x
        variance = (1 - after) / (1 - now) * (1 - kept)
        x = mean + math.sqrt(variance) * noise(x) if variance > 0 else mean
    return x


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    x: Tensor,
    steps: Tensor,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """Implicit sampling; Song, Meng, Ermon 2020, arXiv:2010.02502, equations 12 and 16.

    Args:
        denoise: x_0 of x_t.
        schedule: of the training.
        x: standard normal numbers, [N, ...]; the noisy images at the first of the steps.
        steps: falling, int64 [S], such as ``schedule.spaced(50).flip(0)``.
        eta: 0 draws nothing, 1 is DDPM.
        noise: asked once a step, but for the last, where eta is not 0.

    Returns:
        Images, [N, ...].

    Raises:
        FedsimError: the steps do not fall or are not of the schedule, or eta is negative, larger than a step
            can bear, or without noise.
    """
    if eta and noise is None:
        raise invalid("ddim: eta", eta, "draws noise, and there is none to draw from", "Give noise, or take eta = 0")
    for t, now, after in transitions(schedule, steps):
        x_0 = denoise(x, _everywhere(t, x))
        sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)  # equation 16
        x = ddim_step(x, x_0, now, after, sigma=_checked(sigma, after, eta))
        if noise is not None and sigma > 0:
            x = x + sigma * noise(x)
    return x


def ddim_step(x: Tensor, x_0: Tensor, now: float, after: float, *, sigma: float = 0.0) -> Tensor:
    """Equation 12 of DDIM without its random part.

    Args:
        x: noisy images, [N, ...].
        x_0: the images estimated in them; what is left is taken for noise.
        now: ``alpha_bar`` of x.
        after: ``alpha_bar`` after the step; 1 gives x_0.
        sigma: deviation of the noise that is to be added to the answer.
    """
    found = noise_from_image(x, x_0, math.sqrt(now), math.sqrt(1 - now))
    return math.sqrt(after) * x_0 + math.sqrt(max(0.0, 1 - after - sigma**2)) * found


def transitions(schedule: Schedule, steps: Tensor) -> Iterator[tuple[int, float, float]]:
    """Each step with ``alpha_bar`` before and after it; after the last there is no noise, so that it is 1.

    Raises:
        FedsimError: the steps do not fall, or are not of the schedule.
    """
    listed = [int(t) for t in steps]
    if not listed or min(listed) < 0 or max(listed) >= len(schedule) or any(s >= t for t, s in pairwise(listed)):
        raise invalid("steps", listed, f"must fall, within {len(schedule) - 1} and 0", "Order and correct them")
    bars = [float(schedule.alpha_bar[t]) for t in listed] + [1.0]
    return zip(listed, bars[:-1], bars[1:], strict=True)


def _everywhere(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _checked(sigma: float, after: float, eta: float) -> float:
    if eta < 0 or sigma**2 > (1 - after) * (1 + 1e-12):
        raise FedsimError(
            f"ddim: eta = {eta!r}: the noise of a step, {sigma:.3g}, must be between 0 and what is left of it, "
            f"{math.sqrt(1 - after):.3g}. Take an eta from 0 to 1."
        )
    return sigma

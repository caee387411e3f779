"""Denoisers: what a network says the image was, in the two coordinates in which samplers work.

Samplers over a schedule's steps see ``x_t = a_t x_0 + b_t noise``. Those over noise levels see
``y = x_0 + sigma noise = x_t / a_t`` with ``sigma = b_t / a_t``, the variance-exploding family.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedsim.diffusion.objective import Network
from fedsim.diffusion.parametrisation import Prediction, check_prediction, image_from_output, noise_from_image
from fedsim.diffusion.schedules import Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Images ``x_0`` [N, ...] as estimated from noisy ones ``x_t`` [N, ...] at steps int64 [N]."""

LevelDenoiser = Callable[[Tensor, Tensor], Tensor]
"""Images ``x_0`` [N, ...] as estimated from ``x_0 + sigma noise`` [N, ...] at noise levels sigma [N]."""

Noise = Callable[[Tensor], Tensor]
"""Fresh standard normal numbers of the shape, type and device of a tensor."""


def seeded_noise(generator: torch.Generator) -> Noise:
    """Draws from a generator of ``fedsim.seeding``, made on the CPU and then moved."""

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    return draw


def denoiser(network: Network, schedule: Schedule, prediction: Prediction, *, bound: float | None = None) -> Denoiser:
    """The image that a network of noise or velocity sees in a noisy one.

    Args:
        network: as trained under ``Objective``.
        schedule: that of the training.
        prediction: likewise.
        bound: images are clamped to [-bound, bound]; samplers then take the noise to be what is left.

    Raises:
        FedsimError: the prediction is unknown, or impossible under this schedule.
    """
    check_prediction(prediction, last_share=float(schedule.alpha_bar[-1]))

    def estimate(x: Tensor, t: Tensor) -> Tensor:
        a, b = schedule.scales(t, x)
        x_0 = image_from_output(prediction, x, network(x, t), a, b)
        return x_0 if bound is None else x_0.clamp(-bound, bound)

    return estimate


def at_levels(inner: Denoiser, schedule: Schedule) -> LevelDenoiser:
    """A denoiser over noise levels from one over steps: the noise is that of the step with the nearest level.

    With ``x = y / sqrt(1 + sigma^2)`` and the noise e that the denoiser finds in x at that step, ``x_0 = y - sigma e``.
    At levels of the schedule it is exact; between and beyond them an approximation.
    """
    table = schedule.levels

    def estimate(y: Tensor, level: Tensor) -> Tensor:
        t = (table - level.detach().double().cpu()[:, None]).abs().argmin(1).to(y.device)
        sigma = spread(level, y)
        x = y * (1 + sigma.square()).rsqrt()
        a, b = schedule.scales(t, y)
        return y - sigma * noise_from_image(x, inner(x, t), a, b)

    return estimate


def score(denoise: LevelDenoiser, y: Tensor, level: Tensor) -> Tensor:
    """The gradient of the log density of noisy images, ``(x_0 - y) / sigma^2`` (Tweedie's formula).

    Args:
        denoise: the denoiser.
        y: noisy images, [N, ...].
        level: sigma, [N].
    """
    return (denoise(y, level) - y) / spread(level, y).square()


def spread(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [N], one an image, as [N, 1, ...] of the type and on the device of the images [N, ...]."""
    return numbers.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))


class Counted:
    """A denoiser or classifier that counts how often it is asked; a whole batch counts once."""

    def __init__(self, inner: Callable[..., Tensor]) -> None:
        self.inner = inner
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The answer of the one inside."""
        self.calls += 1
        return self.inner(*inputs)

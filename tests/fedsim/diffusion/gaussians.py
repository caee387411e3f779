"""Data whose noisy densities, denoisers and noise levels are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from fedsim.diffusion import Denoiser, Schedule


@dataclass(frozen=True)
class Gaussian:
    """Independent numbers of mean 0 and deviation ``s``."""

    s: float

    def noise_network(self, schedule: Schedule):
        """The best network of the noise: ``b x / (a^2 s^2 + b^2)``."""

        def answer(x: Tensor, t: Tensor) -> Tensor:
            a, b = schedule.scales(t, x)
            return b * x / ((a * self.s) ** 2 + b**2)

        return answer

    def denoise_steps(self, schedule: Schedule) -> Denoiser:
        def answer(x: Tensor, t: Tensor) -> Tensor:
            a, b = schedule.scales(t, x)
            return a * self.s**2 * x / ((a * self.s) ** 2 + b**2)

        return answer

    def denoise_levels(self, y: Tensor, level: Tensor) -> Tensor:
        return y * (self.s**2 / (self.s**2 + level**2)).reshape(-1, *[1] * (y.ndim - 1))

    def flow(self, start: float, end: float) -> float:
        """By what the exact probability flow multiplies y between two levels."""
        return math.sqrt((self.s**2 + end**2) / (self.s**2 + start**2))


@dataclass(frozen=True)
class Mixture:
    """Modes [M, d] of equal weight, around each a Gaussian of deviation ``s``."""

    modes: Tensor
    s: float

    def squares(self, y: Tensor) -> Tensor:
        return torch.cdist(y, self.modes).square()

    def denoise(self, y: Tensor, level: Tensor) -> Tensor:
        variance = self.s**2 + level[:, None] ** 2
        shares = torch.softmax(-self.squares(y) / (2 * variance), 1)
        return y + (shares @ self.modes - y) * level[:, None] ** 2 / variance

    def log_levels(self, levels: Tensor):
        """``log p(level_k | y) + const``, [N, K]."""
        variance = self.s**2 + levels**2

        def answer(y: Tensor) -> Tensor:
            near = torch.logsumexp(-self.squares(y)[:, :, None] / (2 * variance), 1)
            return near - y.shape[1] / 2 * variance.log()

        return answer

    def density_by_sum(self, y: Tensor, level: float) -> Tensor:
        """Log density of noisy images, by torch.distributions and so by other code than above, [N]."""
        parts = torch.distributions.Normal(self.modes[None], math.hypot(self.s, level))
        logs = parts.log_prob(y[:, None]).sum(2)
        return torch.logsumexp(logs, 1) - math.log(len(self.modes))

    def draw(self, level: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.modes), (len(level),), generator=generator)
        spread = (self.s**2 + level[:, None] ** 2).sqrt()
        noise = torch.randn(len(level), self.modes.shape[1], generator=generator, dtype=torch.float64)
        return self.modes[which] + spread * noise

    def marginal(self, levels: Tensor):
        """The distribution function of the first coordinate, with the level drawn evenly from those given."""
        spread = (self.s**2 + levels**2).sqrt().numpy()

        def cumulative(values: np.ndarray) -> np.ndarray:
            centres = self.modes[:, 0].numpy()
            return norm.cdf(np.asarray(values)[:, None, None], centres[:, None], spread).mean((1, 2))

        return cumulative

"""Denoising MCMC: a chain over images and noise levels together, each visited state then denoised.

Kim and Ye, ICML 2023, arXiv:2209.14593. The joint density is ``p_sigma(x) p(sigma)`` with p(sigma) even over a list of
levels. Langevin steps move the image at its level; a classifier of noise levels moves the level:

    x     <- x + (eta / 2) score(x, sigma) + sqrt(eta) z
    sigma <- the level that the classifier sees in x

An integrator that starts at a low level needs few steps, and the chain spends its time there. It is a sampler of
distributions; in this field the authors' short name for it, DLG, means another thing. Run it under
``torch.no_grad()``, for otherwise every call of the network stays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from fedsim.diffusion.denoising import Counted, LevelDenoiser, Noise, score, spread
from fedsim.diffusion.flow import Churn, heun
from fedsim.diffusion.integrators import Integrator, calls, integrate
from fedsim.diffusion.levels import karras
from fedsim.errors import invalid, unknown

LevelLogits = Callable[[Tensor], Tensor]
"""``log p(k | x) + const`` [N, K] of noisy images [N, ...]: how likely each level is."""

LevelRule = Callable[[Tensor], Tensor]
"""The level's index int64 [N] picked from logits [N, K]."""


PUBLISHED_CHURN = Churn()


def likeliest(logits: Tensor) -> Tensor:
    """The most likely level, as the authors' code has it.

    The level's posterior has a deviation of about ``sigma / sqrt(2 d)`` for images of d numbers: in hundreds of
    dimensions this is nearly a draw, in few it is wrong, and ``drawn`` is right.
    """
    return logits.argmax(1)


def drawn(generator: torch.Generator) -> LevelRule:
    """A level drawn with its probability: Gibbs sampling, right in any dimension."""

    def pick(logits: Tensor) -> Tensor:
        chances = torch.softmax(logits.detach().double(), 1).cpu()
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)

    return pick


@dataclass(frozen=True)
class Joint:
    """The joint density of images and noise levels, as networks know it.

    Attributes:
        denoise: x_0 of ``x_0 + sigma noise``.
        classify: how likely each level is.
        levels: float64 [K], falling, such as ``levels.geometric``.
        rule: which level is picked.
    """

    denoise: LevelDenoiser
    classify: LevelLogits
    levels: Tensor
    rule: LevelRule = likeliest


@dataclass(frozen=True)
class Chains:
    """Where N chains are.

    Attributes:
        x: noisy images, [N, ...].
        level: sigma of each, float64 [N].
    """

    x: Tensor
    level: Tensor


@dataclass(frozen=True)
class Sampling:
    """How chains become images. The widths hold for images in [-1, 1]; in [0, 1] levels halve and eta quarters.

    Attributes:
        step_size: eta; about twice the square of the levels where the chain should stay, or less.
        skip: chain steps an output, n_skip.
        levels: N of the integrator, its final 0 included.
        lowest: the integrator's last level above 0.
        last: sigma_w of the final denoising.
        keep_lowest: whether the state with the lowest level of those visited is denoised, as the authors have it, which
            prefers some images to others; else the last one visited, which is right in distribution.
        integrator: ``heun``, ``ddim`` or ``ddpm``.
        churn: of ``heun``; None for none.
    """

    step_size: float
    skip: int
    levels: int
    lowest: float = 0.02
    last: float = 0.02
    keep_lowest: bool = True
    integrator: Integrator = "heun"
    churn: Churn | None = None

    def __post_init__(self) -> None:
        for name in ("step_size", "skip", "lowest", "last"):
            if not 0 < getattr(self, name) < math.inf:
                raise invalid(f"dmcmc: {name}", getattr(self, name), "must be more than 0", "Correct it")
        if self.integrator not in get_args(Integrator):
            raise unknown("dmcmc: integrator", self.integrator, get_args(Integrator))
        if self.levels < 3:
            raise invalid("dmcmc: levels", self.levels, "a start, an end and 0 are three levels", "Take 3 or more")

    @property
    def calls(self) -> int:
        """How often the denoiser is asked for an output: by Heun ``n_skip + 2 N - 2``, else ``n_skip + N``."""
        return self.skip + calls(self.integrator, self.levels) + 1


@dataclass(frozen=True)
class Draw:
    """One output of each chain.

    Attributes:
        images: [N, ...]; not clamped.
        chains: where the chains go on.
        denoiser_calls: how often the denoiser was asked, for a whole batch.
        classifier_calls: likewise the classifier.
    """

    images: Tensor
    chains: Chains
    denoiser_calls: int
    classifier_calls: int


def langevin(denoise: LevelDenoiser, chains: Chains, step_size: float, noise: Noise) -> Chains:
    """Move the images at their levels: ``x + (eta / 2) score(x, sigma) + sqrt(eta) z``."""
    drift = score(denoise, chains.x, chains.level.to(chains.x)) * (step_size / 2)
    return Chains(chains.x + drift + math.sqrt(step_size) * noise(chains.x), chains.level)


def gibbs(joint: Joint, x: Tensor) -> Chains:
    """Images with the levels that the classifier's logits and the rule give them."""
    index = joint.rule(joint.classify(x))
    return Chains(x, joint.levels[index.to(joint.levels.device)])


def advance(joint: Joint, chains: Chains, step_size: float, noise: Noise) -> Chains:
    """One step of the chain: the image, then its level."""
    return gibbs(joint, langevin(joint.denoise, chains, step_size, noise).x)


def lower(first: Chains, second: Chains) -> Chains:
    """Of each chain the state with the lower level; the first where they are equal."""
    better = second.level < first.level
    x = torch.where(spread(better, first.x).bool(), second.x, first.x)
    return Chains(x, torch.where(better, second.level, first.level))


def start(
    joint: Joint,
    images: Tensor,
    noise: Noise,
    *,
    lowest: float = 0.02,
    deviation: float = 1.0,
    churn: Churn | None = PUBLISHED_CHURN,
) -> Chains:
    """Chains that start from samples of an integrator with 20 levels and churn, noised again.

    The authors then warm up: some steps of ``advance``, with a large step size and with that of the run. The widths
    hold for images in [-1, 1]; theirs are half as large, for [0, 1].

    Args:
        joint: the density.
        images: standard normal numbers, [N, ...].
        noise: of the churn, and that put on.
        lowest: the integrator's last level above 0.
        deviation: of the noise put on the samples.
        churn: of the integrator.
    """
    highest = joint.levels[0]
    levels = karras(20, highest.expand(len(images)), lowest)
    samples = heun(joint.denoise, float(highest) * images, levels, churn=churn, noise=noise)
    return gibbs(joint, samples + deviation * noise(samples))


def sample(joint: Joint, chains: Chains, how: Sampling, noise: Noise) -> Draw:
    """Move the chains on and denoise a state that each has visited, commonly the lowest.

    The chains go on from where they are, never from the images that come out.

    Args:
        joint: the density.
        chains: where they are.
        how: steps and widths.
        noise: of the Langevin steps, and of an integrator that draws.

    Raises:
        FedsimError: a level of the density is not above the integrator's lowest.
    """
    denoise, classify = Counted(joint.denoise), Counted(joint.classify)
    counted = Joint(denoise, classify, joint.levels, joint.rule)
    best = chains
    for _ in range(how.skip):
        chains = advance(counted, chains, how.step_size, noise)
        best = lower(best, chains) if how.keep_lowest else chains
    way = karras(how.levels, best.level, how.lowest)
    y = integrate(how.integrator, denoise, best.x, way, noise, churn=how.churn)
    y = denoise(y, torch.full((len(y),), how.last).to(y))  # Tweedie: y + sigma_w^2 score(y, sigma_w)
    return Draw(y, chains, denoise.calls, classify.calls)

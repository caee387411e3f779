"""What the reproduction of ``dmcmc`` compares: ways to draw images with so many calls of the network."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.reproduce.dmcmc_models import LOWEST, Model
from fedsim import seeding
from fedsim.diffusion import Churn, Counted, Noise, ddim, ddpm, seeded_noise
from fedsim.diffusion.dmcmc import PUBLISHED_CHURN, Chains, Joint, Sampling, advance, drawn, sample, start
from fedsim.diffusion.integrators import Integrator, calls, integrate
from fedsim.diffusion.levels import karras

Spacing = Literal["ends", "trailing"]
Judge = Literal["test", "validation"]

CALLS = (5, 10, 20, 50)
SKIPS = {5: 1, 10: 4, 20: 10, 50: 30}
"""Steps of the chain an image, of that many calls; the others are the integrator's and the last denoising."""
WARM_UP = ((10, 2.0), (10, None))
"""Steps before the first image and their step size, None for that of the run; the authors', for images in [-1, 1]."""
STEP_SIZE = 2.0
"""Of the chain on test images: the best of those that were tried first on the server's own (``settings``)."""
PART = 250
"""Images that are drawn at once without a chain."""


@dataclass(frozen=True)
class Cell:
    """Images of one way to draw them.

    Attributes:
        integrator: from noise, or from where a chain is.
        calls: of the network, an image, without those before a chain's first image; Heun's may be one less.
        seed: of all noise.
        chain: whether a Markov chain comes before it.
        churn: whether Heun's method puts noise back.
        step_size: eta of the chain.
        outputs: images of each chain.
        keep_lowest: whether the lowest state visited is denoised, or the last.
        likeliest: whether the chain's level is the likeliest one, or drawn.
        spacing: of the steps of DDPM and DDIM without a chain: with both ends of the schedule, or without step 0.
        judge: the real images to compare with.
    """

    integrator: Integrator
    calls: int
    seed: int = 0
    chain: bool = False
    churn: bool = False
    step_size: float = 0.2
    outputs: int = 5
    keep_lowest: bool = True
    likeliest: bool = True
    spacing: Spacing = "trailing"
    judge: Judge = "test"

    def key(self) -> dict[str, Any]:
        """What tells it from others, as JSON has it."""
        return asdict(self)

    def noise(self, *path: str | int) -> torch.Generator:
        """Where its random numbers come from; ways with the same seed begin at the same noise."""
        return seeding.generator(self.seed, "dmcmc", *path)


@dataclass(frozen=True)
class Drawn:
    """Images, and what they took.

    Attributes:
        images: in [0, 1], float32 [N, C, H, W]; of chains first the first one of each, then the second, ...
        calls: of the network an image, counted.
        warm_up_calls: a chain, before its first image.
        seconds: of all images, by the clock.
        warm_up_seconds: of all chains.
        level: where the chains ended, median; None without.
    """

    images: Tensor
    calls: int
    warm_up_calls: int
    seconds: float
    warm_up_seconds: float
    level: float | None


def settings() -> Iterator[Cell]:
    """What is tried on the server's own images at ten calls, one change at a time."""
    own = Cell("heun", 10, judge="validation", chain=True)
    for spacing in ("trailing", "ends"):
        for by in ("ddpm", "ddim"):
            yield Cell(by, 10, spacing=spacing, judge="validation")
    yield own
    for step_size in (0.05, 0.5, 1.0, 2.0, 4.0):
        yield replace(own, step_size=step_size)
    for outputs in (1, 20):
        yield replace(own, outputs=outputs)
    yield replace(own, keep_lowest=False)
    yield replace(own, likeliest=False)


def cells(chain: Cell, seeds: int) -> Iterator[Cell]:
    """All that is compared on test images, seed by seed, and 50 calls after the others, as they take half of the time.

    Args:
        chain: how chains go.
        seeds: how many.
    """
    ways: list[Cell] = []
    for by in ("ddpm", "ddim", "heun"):
        ways += [Cell(by, 0), replace(chain, integrator=by, chain=True, judge="test")]
    ways += [Cell("heun", 0, churn=True), replace(chain, integrator="heun", churn=True, chain=True, judge="test")]
    for budgets in (CALLS[:-1], CALLS[-1:]):
        for seed in range(seeds):
            for budget in budgets:
                yield from (replace(way, calls=budget, seed=seed) for way in ways)


def how(cell: Cell) -> Sampling:
    """The chain's steps and the integrator's levels that come to the cell's calls."""
    skip = SKIPS[cell.calls]
    levels = _levels(cell.integrator, cell.calls - skip - 1)
    churn = PUBLISHED_CHURN if cell.churn else None
    return Sampling(cell.step_size, skip, levels, LOWEST, LOWEST, cell.keep_lowest, cell.integrator, churn)


@torch.no_grad()
def draw(cell: Cell, model: Model, count: int) -> Drawn:
    """Images of a cell.

    Args:
        cell: how.
        model: that draws.
        count: of images; divisible by the outputs of a chain.
    """
    return _by_chain(cell, model, count) if cell.chain else _from_noise(cell, model, count)


def _from_noise(cell: Cell, model: Model, count: int) -> Drawn:
    began = time.monotonic()
    z = torch.randn(count, *model.experiment.data.input_shape, generator=cell.noise("start"))
    noise = seeded_noise(cell.noise("steps"))
    denoise = Counted(model.joint.denoise if cell.integrator == "heun" else model.steps)
    parts = torch.split(z, PART)
    images = torch.cat([_walk(cell, model, denoise, part, noise) for part in parts])
    return Drawn(_seen(images), denoise.calls // len(parts), 0, time.monotonic() - began, 0.0, None)


def _walk(cell: Cell, model: Model, denoise: Counted, z: Tensor, noise: Noise) -> Tensor:
    if cell.integrator == "heun":
        top = model.joint.levels[0]
        way = karras(_levels("heun", cell.calls), top.expand(len(z)), LOWEST)
        churn: Churn | None = PUBLISHED_CHURN if cell.churn else None
        return integrate("heun", denoise, float(top) * z, way, noise, churn=churn)
    schedule = model.schedule
    rising = schedule.spaced(cell.calls) if cell.spacing == "ends" else schedule.spaced(cell.calls + 1)[1:]
    if cell.integrator == "ddim":
        return ddim(denoise, schedule, z, rising.flip(0))
    return ddpm(denoise, schedule, z, rising.flip(0), noise)


def _by_chain(cell: Cell, model: Model, count: int) -> Drawn:
    chains, warm_up_calls, warm_up_seconds = _warm(model, count // cell.outputs, cell.seed, cell.step_size)
    joint, noise, made = model.joint, seeded_noise(cell.noise("chains")), how(cell)
    if not cell.likeliest:
        joint = replace(joint, rule=drawn(cell.noise("levels")))
    began, images, asked = time.monotonic(), [], 0
    for _ in range(cell.outputs):
        one = sample(joint, chains, made, noise)
        chains, asked = one.chains, asked + one.denoiser_calls
        images.append(_seen(one.images))
    seconds, level = time.monotonic() - began, float(chains.level.median())
    return Drawn(torch.cat(images), asked // cell.outputs, warm_up_calls, seconds, warm_up_seconds, level)


@functools.lru_cache(maxsize=8)
def _warm(model: Model, count: int, seed: int, step_size: float) -> tuple[Chains, int, float]:
    """Chains before their first image, the calls of the network for each, and the seconds for all."""
    began, path = time.monotonic(), ("dmcmc", "warm-up")
    noise = seeded_noise(seeding.generator(seed, *path))
    z = torch.randn(count, *model.experiment.data.input_shape, generator=seeding.generator(seed, *path, "start"))
    denoise = Counted(model.joint.denoise)
    joint = Joint(denoise, model.joint.classify, model.joint.levels)
    chains = start(joint, z, noise, lowest=LOWEST)
    for steps, size in WARM_UP:
        for _ in range(steps):
            chains = advance(joint, chains, size or step_size, noise)
    return chains, denoise.calls, time.monotonic() - began


def _levels(by: Integrator, budget: int) -> int:
    """The most levels that an integrator walks down with no more calls."""
    count = 3
    while calls(by, count + 1) <= budget:
        count += 1
    return count


def _seen(images: Tensor) -> Tensor:
    return ((images + 1) / 2).clamp(0, 1)


def likeness(images: Tensor, outputs: int) -> float | None:
    """How far an image is from the one before it of its chain, over how far from other chains'; 1 if independent.

    Root mean squares over pixels. None where a chain has one image, or there is one chain.

    Args:
        images: the first of each chain, then the second, ..., [N, ...].
        outputs: images of each chain.
    """
    each = images.flatten(1).reshape(outputs, -1, images[0].numel())
    if outputs < 2 or each.shape[1] < 2:
        return None
    after = (each[1:] - each[:-1]).square().mean()
    others = (each - each.roll(1, dims=1)).square().mean()
    return float((after / others).sqrt())

"""GIDM: gradient inversion of federated diffusion models.

Huang, Hong, Chen, Roos. ARES 2025. arXiv:2405.20380.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from adversary.attack import ATTACKS, ONE_GRADIENT, Needs, Progress, check
from adversary.diffusion.given_away import image_given_away
from adversary.diffusion.prior import generator_of
from adversary.diffusion.problems import Latents, Onwards
from adversary.diffusion.steps import with_steps
from adversary.inversion import (
    LBFGS,
    Adam,
    Euclidean,
    Inversion,
    InversionProblem,
    Optimiser,
    SignAdam,
    SingleGradient,
    Solution,
    Solver,
)
from adversary.labels import optimised
from fedsim.protocol import Knowledge, Observation, Reconstruction

Start = Literal["latents", "features"]

EXPLAINED = 1e-3
"""Relative squared gap to the gradient below which no further start is tried."""


@ATTACKS.register("gidm")
def gidm(
    *,
    prior: str = "global",
    start: Start = "latents",
    latent_iterations: int = 2_500,
    iterations: int = 5_000,
    restarts: int = 1,
    seconds: float | None = None,
    sampling_steps: int = 4,
    latent_draws: int = 1,
    latent_learning_rate: float = 0.01,
    learning_rate: float = 0.01,
    optimiser: Literal["adam", "sign_adam", "lbfgs"] = "adam",
    tolerance: float = 0.0,
    save_memory: bool = False,
) -> Gidm:
    """Search the latent of a trained diffusion model whose image matches the gradient, then the pixels from there on.

    Args:
        prior: the model that makes images of latents: ``global``, the one that the victim was sent; ``random``, fresh
            weights; the path of a safetensors file with the state of another one of the same layout; the folder of a
            student of ``fedsim distill``; or ``none``, to search the pixels alone, from noise.
        start: what the first of the restarts begins with: ``latents``, the first search; or ``features``, not of the
            paper: in place of the first search, the image that the gradient of one example gives away where some layer
            has as many channels as positions (``adversary.diffusion.features``); where none has, as ``latents``.
        latent_iterations: of the first search.
        iterations: of the second one; 0 to leave it out.
        restarts: starting points, of each of which both searches are begun, until the pixels explain the gradient, as
            searches end either there or in a local minimum well above.
        seconds: wall-clock budget of a victim; of what a start finds left its first search takes half at most.
        sampling_steps: calls of the prior for an image, by DDIM; a student has its own number.
        latent_draws: latents drawn for each start of the first search, which begins at the one whose image explains the
            gradient best. Each costs a gradient, and is not counted among the iterations.
        latent_learning_rate: of Adam, on the latents.
        learning_rate: of Adam, on the network's inputs.
        optimiser: of the second search; ``adam`` as in the authors' code; ``sign_adam`` on signs, with falling
            steps, in the box of valid images, for which a learning rate of 0.1 is usual; or ``lbfgs``, as in DLG.
        tolerance: objective at which a search ends.
        save_memory: keep one call of the prior in memory at a time.
    """
    pixels: dict[str, Optimiser] = {
        "adam": Adam(learning_rate, boxed=False),
        "sign_adam": SignAdam(learning_rate),
        "lbfgs": LBFGS(),
    }
    return Gidm(
        prior=prior,
        sampling_steps=sampling_steps,
        latent_draws=latent_draws,
        first=Solver(latent_iterations, tolerance=tolerance),
        search=Adam(latent_learning_rate, boxed=False),
        second=Inversion(
            labels=optimised,
            simulator=SingleGradient(),
            distance=Euclidean(relative=True),
            optimiser=pixels[optimiser],
            solver=Solver(iterations, restarts, seconds, tolerance, satisfied=EXPLAINED),
            requires=Needs(single_step=True, objectives={"denoising": ONE_GRADIENT["denoising"] - {"steps"}}),
        ),
        save_memory=save_memory,
        features=start == "features",
    )


@dataclass(frozen=True)
class Gidm:
    """Two searches that minimise one objective of one observation, ``sum_i |grad_i - g_i|^2 / sum_i |g_i|^2``.

    Attributes:
        prior: see ``generator_of``; ``none`` for the second search alone.
        sampling_steps: calls of the prior for an image.
        first: budget of the search for latents, of one start.
        search: how latents are searched.
        second: the search for pixels, with the budget and the number of starts of the attack.
        latent_draws: latents of which the best is a start of the first search.
        save_memory: see ``generator``.
        features: whether the second search begins at the image that the gradient gives away, if it does.
    """

    prior: str
    sampling_steps: int
    first: Solver
    search: Optimiser
    second: Inversion
    latent_draws: int = 1
    save_memory: bool = False
    features: bool = False

    @property
    def needs(self) -> Needs:
        """Those of the second search."""
        return self.second.needs

    def reconstruct(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Reconstruction:
        check(self, observations, knowledge)
        began = time.monotonic()
        knowledge = with_steps(knowledge, observations[0])
        problem = self.second.problem(observations, knowledge, seed=seed, device=device)
        image = image_given_away(observations[0], knowledge, seed=seed, device=device) if self.features else None
        onwards = None if image is None else Onwards(problem, image)
        if self.prior == "none" or not self.first.iterations:
            solver = replace(self._onwards if onwards else self.second.solver, seconds=self._left(began))
            solution = solver.solve(onwards or problem, self.second.optimiser, progress)
        else:
            solution = self._starts(problem, onwards, observations[0], began, progress)
        return replace(Inversion.result(problem, solution, observations[0]), seconds=time.monotonic() - began)

    @property
    def _onwards(self) -> Solver:
        """The budget of the second search from an image on; without one the image itself is looked at, and kept."""
        return replace(self.second.solver, iterations=max(1, self.second.solver.iterations))

    def _left(self, began: float) -> float | None:
        """Seconds of the budget."""
        seconds = self.second.solver.seconds
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - began))

    def _starts(
        self,
        problem: InversionProblem,
        onwards: Onwards | None,
        observation: Observation,
        began: float,
        progress: Progress | None,
    ) -> Solution:
        """Both searches, from one start after the other until an image explains the gradient; the best of all.

        The first one is of pixels alone if there is an image to begin at.
        """
        make = generator_of(
            self.prior,
            observation,
            problem.knowledge,
            self.sampling_steps,
            problem.device,
            labels=problem.labels,
            save_memory=self.save_memory,
        )
        solver = self.second.solver
        best, done = Solution(None, math.inf, (), 0, "seconds"), 0
        for start in range(solver.restarts):
            left = self._left(began)
            if start and left is not None and left <= 0:
                break
            told = _after(done, best.loss, progress)
            if start == 0 and onwards:
                found = replace(self._onwards, restarts=1, seconds=left).solve(onwards, self.second.optimiser, told)
            else:
                # A search begun anew after it has diverged takes one of the numbers between those of two starts.
                latents = Latents(problem, make, self.latent_draws, start * (1 + self.first.retries))
                found = self._both(latents, left, told)
            done += found.iterations
            if found.loss < best.loss or best.candidate is None:
                best = found
            if best.loss < solver.satisfied:
                break
        return replace(best, iterations=done)

    def _both(self, latents: Latents, seconds: float | None, progress: Progress | None) -> Solution:
        """The search for a latent, then that for pixels from its image on; the history is that of both."""
        began = time.monotonic()
        half = None if seconds is None else max(0.0, seconds) / 2
        before = replace(self.first, seconds=half).solve(latents, self.search, progress)
        if before.candidate is not None:
            with torch.no_grad():
                before = replace(before, candidate=latents.decoded(before.candidate))
        if before.candidate is not None and not self.second.solver.iterations:
            return before
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
        solver = replace(self.second.solver, restarts=1, seconds=left)
        inner = latents.inner
        start = inner if before.candidate is None else Onwards(inner, before.candidate.inputs)
        found = solver.solve(start, self.second.optimiser, _after(before.iterations, math.inf, progress))
        if found.candidate is None and before.candidate is not None:
            found = replace(before, stopped_by=found.stopped_by, iterations=0, history=())
        iterations, history = before.iterations + found.iterations, before.history + found.history
        return replace(found, iterations=iterations, history=history)


def _after(done: int, best: float, progress: Progress | None) -> Progress | None:
    """Progress of a search that comes after another one."""
    if progress is None:
        return None
    told = progress
    return lambda iterations, loss: told(done + iterations, min(best, loss))

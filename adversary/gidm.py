"""GIDM: gradient inversion of federated diffusion models.

Huang, Hong, Chen, Roos. ARES 2025. arXiv:2405.20380.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from adversary.attack import ATTACKS, ONE_GRADIENT, Needs, Progress, check
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

EXPLAINED = 1e-3
"""Relative squared gap to the gradient below which no further start is tried."""


@ATTACKS.register("gidm")
def gidm(
    *,
    prior: str = "global",
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
        latent_iterations: of the first search.
        iterations: of the second one; 0 to leave it out.
        restarts: starting points of either search; from the second one on the pixels start from noise. None follows one
            whose pixels explain the gradient, as far searches end either there or in a local minimum well above.
        seconds: wall-clock budget of a victim; the first search takes half of it at most.
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
        first=Solver(latent_iterations, restarts, None if seconds is None else seconds / 2, tolerance),
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
    )


@dataclass(frozen=True)
class Gidm:
    """Two searches that minimise one objective of one observation, ``sum_i |grad_i - g_i|^2 / sum_i |g_i|^2``.

    Attributes:
        prior: see ``generator_of``; ``none`` for the second search alone.
        sampling_steps: calls of the prior for an image.
        first: budget of the search for latents.
        search: how latents are searched.
        second: the search for pixels.
        latent_draws: latents of which the best is a start of the first search.
        save_memory: see ``generator``.
    """

    prior: str
    sampling_steps: int
    first: Solver
    search: Optimiser
    second: Inversion
    latent_draws: int = 1
    save_memory: bool = False

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
        solution, image = self._latents(problem, observations[0], progress)
        if solution is None or image is None or self.second.solver.iterations:
            solution = self._pixels(problem, solution, image, began, progress)
        return replace(Inversion.result(problem, solution, observations[0]), seconds=time.monotonic() - began)

    def _latents(
        self, problem: InversionProblem, observation: Observation, progress: Progress | None
    ) -> tuple[Solution | None, Tensor | None]:
        """The first search; its solution holds the image, not the latents."""
        if self.prior == "none" or not self.first.iterations:
            return None, None
        make = generator_of(
            self.prior,
            observation,
            problem.knowledge,
            self.sampling_steps,
            problem.device,
            labels=problem.labels,
            save_memory=self.save_memory,
        )
        latents = Latents(problem, make, self.latent_draws)
        found = self.first.solve(latents, self.search, progress)
        if found.candidate is None:
            return found, None
        with torch.no_grad():
            image = latents.decoded(found.candidate)
        return replace(found, candidate=image), image.inputs

    def _pixels(
        self,
        problem: InversionProblem,
        before: Solution | None,
        image: Tensor | None,
        began: float,
        progress: Progress | None,
    ) -> Solution:
        """The second search, from the image if there is one; the history is that of both."""
        done, history = (0, ()) if before is None else (before.iterations, before.history)
        solver = self.second.solver
        if solver.seconds is not None:
            solver = replace(solver, seconds=max(0.0, solver.seconds - (time.monotonic() - began)))

        def going_on(iterations: int, loss: float) -> None:
            if progress is not None:
                progress(done + iterations, loss)

        start = problem if image is None else Onwards(problem, image)
        found = solver.solve(start, self.second.optimiser, going_on)
        if found.candidate is None and before is not None and before.candidate is not None:
            found = replace(before, stopped_by=found.stopped_by, iterations=0, history=())
        return replace(found, iterations=done + found.iterations, history=history + found.history)

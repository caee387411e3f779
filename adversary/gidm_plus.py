"""GIDM+: gradient inversion of diffusion models with noise and step unknown.

Huang, Hong, Chen, Roos. ARES 2025. arXiv:2405.20380, whose code does not carry out what the paper claims of it: the
true noise is used, and the step never gets a gradient. What is done here instead is derived, as the docstrings say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from adversary.attack import ATTACKS, Needs, Progress, check, failure
from adversary.diffusion.features import noisy_image
from adversary.diffusion.observed import Observed, observed
from adversary.diffusion.step_guesses import Guess, guess
from adversary.diffusion.unknowns import Unknowns, Variables
from adversary.inversion import LBFGS, Adam, Optimiser, Solution, Solver
from fedsim.errors import unknown
from fedsim.protocol import Knowledge, Observation, Reconstruction

Start = Literal["features", "noise"]

EXPLAINED = 1e-3
"""Relative squared gap below which no further start is tried: searches end either far below, or well above."""

PATIENCE = 200
"""Iterations without a gain after which a search has ended."""


@ATTACKS.register("gidm_plus")
def gidm_plus(
    *,
    steps: Guess = "readout",
    start: Start = "features",
    variables: Variables = "image_noise",
    optimiser: Literal["lbfgs", "adam"] = "lbfgs",
    iterations: int = 1_000,
    restarts: int = 5,
    seconds: float | None = None,
    learning_rate: float = 0.02,
    tolerance: float = 1e-12,
) -> GidmPlus:
    """Find step, noise and image of one example; what the threat model grants of step and noise is taken from there.

    It computes in double precision throughout, also where the client did not.

    Args:
        steps: how the step is found where it is not granted: ``readout``, exact for networks that embed it in a linear
            layer; ``enumerate``, ``soft`` or ``gumbel``, see ``adversary.diffusion.step_guesses``.
        start: ``features`` for the noisy image that the gradient gives away in closed form, where some layer has as
            many channels as positions (``adversary.diffusion.features``), else as ``noise``: from N(0, 1).
        variables: what is searched: ``image_noise``; ``noisy_velocity``, the noisy image and what should be answered;
            ``noisy_residual``; or ``noisy``, with the residual solved for by least squares.
        optimiser: ``lbfgs`` with line searches, or ``adam``.
        iterations: of each search; 0 takes the start for the result.
        restarts: starting points; no further one follows one that explains the gradient.
        seconds: wall-clock budget of the search.
        learning_rate: of ``adam``, which falls.
        tolerance: relative squared gap at which a search ends; gradients in single precision allow no less.

    Raises:
        FedsimError: a name is not known, or there is no restart.
    """
    for name, value, choices in (
        ("gidm_plus: steps", steps, get_args(Guess)),
        ("gidm_plus: start", start, get_args(Start)),
        ("gidm_plus: variables", variables, get_args(Variables)),
    ):
        if value not in choices:
            raise unknown(name, value, choices)
    recipes: dict[str, Optimiser] = {
        "lbfgs": LBFGS(line_search=True, history=30),
        "adam": Adam(learning_rate, (0.5, 0.75, 0.9), boxed=False),
    }
    if optimiser not in recipes:
        raise unknown("gidm_plus: optimiser", optimiser, recipes)
    solver = Solver(max(1, iterations), restarts, seconds, tolerance, PATIENCE, satisfied=EXPLAINED)
    return GidmPlus(steps, start, variables, recipes[optimiser], solver, search=iterations > 0)


@dataclass(frozen=True)
class GidmPlus:
    """The step, then a start, then one search for image and noise.

    Attributes:
        steps: how an unknown step is found.
        start: of the first search.
        variables: of all searches.
        optimiser: of all searches.
        solver: their budget.
        search: whether there is one; else the start is the result.
    """

    steps: Guess
    start: Start
    variables: Variables
    optimiser: Optimiser
    solver: Solver
    search: bool = True

    @property
    def needs(self) -> Needs:
        """One gradient of one example of a diffusion loss; nothing is granted."""
        return Needs(max_examples=1, single_step=True, objectives={"denoising": frozenset()})

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
        seen = observed(observations[0], knowledge, device=device, dtype=torch.float64)
        noise = None if knowledge.noise is None else knowledge.noise.to(seen.like)
        t = self._step(seen, knowledge, seed, noise).to(device)
        problem = Unknowns(seen, t, seed, self.variables, noise, self._first(seen, t, seed))
        solver = self.solver if self.search else replace(self.solver, iterations=1, restarts=1)
        solution = solver.solve(problem, self.optimiser, progress)
        found = _result(problem, solution, observations[0], knowledge)
        return replace(found, seconds=time.monotonic() - began)

    def _step(self, seen: Observed, knowledge: Knowledge, seed: int, noise: Tensor | None) -> Tensor:
        if knowledge.steps is not None:
            return knowledge.steps
        return torch.tensor([guess(self.steps, seen, seed=seed, noise=noise)])

    def _first(self, seen: Observed, t: Tensor, seed: int) -> Tensor | None:
        """The noisy image that the gradient gives away, if it does."""
        if self.start == "noise":
            return None
        found = noisy_image(seen.network, lambda x: seen.network(x, t), seen.gradients, seen.shape, seed=seed)
        return None if found is None else found.noisy


def _result(problem: Unknowns, solution: Solution, first: Observation, knowledge: Knowledge) -> Reconstruction:
    """What was found, as an image; grey where nothing was."""
    if solution.candidate is None:
        found = failure(first, knowledge, solution.stopped_by)
    else:
        image, _ = problem.found(solution.candidate)
        label = problem.seen.network.label
        found = Reconstruction(
            images=knowledge.denormalise(image).float().cpu(),
            labels=torch.tensor([-1]) if label is None else label.cpu(),
            loss=solution.loss,
            stopped_by=solution.stopped_by,
        )
    return replace(found, history=solution.history, iterations=solution.iterations)

"""Gradient inversion put together from its parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adversary import labels as rules
from adversary.attack import Needs, Progress, check, failure
from adversary.inversion.distance import Distance, LayerWise
from adversary.inversion.optimiser import Optimiser
from adversary.inversion.prior import Prior
from adversary.inversion.problem import Combine, InversionProblem
from adversary.inversion.simulator import Simulator
from adversary.inversion.solver import Solver
from adversary.inversion.weights import depths
from adversary.network import build, mode_of, place
from fedsim import seeding
from fedsim.protocol import Knowledge, Observation, Reconstruction


@dataclass(frozen=True)
class Inversion:
    """Search for inputs whose simulated update is near the one observed.

    Minimises ``mean_r distance(simulate(x, y; w_r), observed_r) + prior(x)`` over the inputs x, from N(0, 1),
    where r goes through the observations given together.

    Attributes:
        labels: recovers y beforehand; ``labels.optimised`` searches for soft labels along with x.
        simulator: what update inputs would cause.
        distance: how far that is from the update observed.
        optimiser: how to search.
        solver: restarts and budgets.
        prior: what images look like; ``None`` for no prior.
        requires: what the parts ask of a victim; a grant that the label rule needs is added.
        combine: how observations count together, see ``InversionProblem``.
    """

    labels: rules.LabelRule
    simulator: Simulator
    distance: Distance | LayerWise
    optimiser: Optimiser
    solver: Solver
    prior: Prior | None = None
    requires: Needs = field(default_factory=Needs)
    combine: Combine = "mean"

    @property
    def needs(self) -> Needs:
        """What the attack asks of a victim."""
        if self.labels is rules.given:
            return replace(self.requires, grants=self.requires.grants | {"labels"})
        return self.requires

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
        problem = self.problem(observations, knowledge, seed=seed, device=device)
        solution = self.solver.solve(problem, self.optimiser, progress)
        if solution.candidate is None:
            found = failure(observations[0], knowledge, solution.stopped_by)
            known = problem.labels
            found = found if known is None else replace(found, labels=known.cpu())
        else:
            found = Reconstruction(
                images=problem.images(solution.candidate),
                labels=problem.hard_labels(solution.candidate).cpu(),
                loss=solution.loss,
                stopped_by=solution.stopped_by,
            )
        return replace(
            found,
            history=solution.history,
            iterations=solution.iterations,
            seconds=time.monotonic() - began,
        )

    def problem(
        self,
        observations: Sequence[Observation],
        knowledge: Knowledge,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> InversionProblem:
        """What the solver is given: the objective and starting points for these observations."""
        first = observations[0]
        network = build(knowledge, mode_of(first.plan), device)
        known: Tensor | None = None
        if self.labels is not rules.optimised:
            draws = seeding.generator(seed, "attack", "labels")
            known = self.labels(rules.Evidence.of(first, knowledge, network, draws, device)).to(device)
        simulations = [self.simulator.bind(network, o, knowledge, device) for o in observations]
        distance = self.distance
        if isinstance(distance, LayerWise):
            layers = depths(network, place(network, first.sent, device), knowledge.input_shape)
            distance = distance.bind(layers * (len(observations) if self.combine == "concat" else 1))
        return InversionProblem(
            simulations,
            distance,
            self.prior,
            knowledge,
            first.examples,
            known,
            seed,
            torch.device(device),
            self.combine,
        )

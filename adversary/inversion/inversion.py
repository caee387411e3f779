"""Gradient inversion put together from its parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from adversary import labels as rules
from adversary.attack import Needs, Progress, check, failure
from adversary.inversion.distance import Distance, LayerWise
from adversary.inversion.group import Group
from adversary.inversion.optimiser import Optimiser
from adversary.inversion.prior import Observing, Prior
from adversary.inversion.problem import Combine, InversionProblem
from adversary.inversion.simulator import Simulator
from adversary.inversion.solver import Solution, Solver
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
        labels: recovers y beforehand; ``labels.optimised`` searches for soft labels along with x. Plays no role where
            the task's loss depends on no labels, or where networks are told them: those are taken as granted, or else
            read by ``labels.class_embedding``.
        simulator: what update inputs would cause.
        distance: how far that is from the update observed.
        optimiser: how to search.
        solver: restarts and budgets.
        prior: what images look like; ``None`` for no prior.
        requires: what the parts ask of a victim; a grant that the label rule needs is added.
        combine: how observations count together, see ``InversionProblem``.
        group: starting points that are searched together, see ``Group``; 1 for each restart alone.
        consistency: how much a group is pulled to its mean.
    """

    labels: rules.LabelRule
    simulator: Simulator
    distance: Distance | LayerWise
    optimiser: Optimiser
    solver: Solver
    prior: Prior | Observing | None = None
    requires: Needs = field(default_factory=Needs)
    combine: Combine = "mean"
    group: int = 1
    consistency: float = 0.0

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
        together = Group(problem, self.group, self.consistency) if self.group > 1 else None
        solution = self.solver.solve(together or problem, self.optimiser, progress)
        if together and solution.candidate is not None:
            solution = replace(solution, candidate=together.best(solution.candidate))
        return replace(self.result(problem, solution, observations[0]), seconds=time.monotonic() - began)

    @staticmethod
    def result(problem: InversionProblem, solution: Solution, first: Observation) -> Reconstruction:
        """What the solver found, as images and labels; grey where it found nothing."""
        if solution.candidate is None:
            found = failure(first, problem.knowledge, solution.stopped_by)
            known = problem.labels
            found = found if known is None else replace(found, labels=known.cpu())
        else:
            found = Reconstruction(
                images=problem.images(solution.candidate),
                labels=problem.hard_labels(solution.candidate).cpu(),
                loss=solution.loss,
                stopped_by=solution.stopped_by,
            )
        return replace(found, history=solution.history, iterations=solution.iterations)

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
        known = self._labels(network, first, knowledge, seed, device)
        simulations = [self.simulator.bind(network, o, knowledge, device) for o in observations]
        distance = self.distance
        if isinstance(distance, LayerWise):
            layers = depths(network, place(network, first.sent, device), knowledge.input_shape)
            distance = distance.bind(layers * (len(observations) if self.combine == "concat" else 1))
        prior = self.prior
        if isinstance(prior, Observing):
            prior = prior.bind(network, first, knowledge, device)
        return InversionProblem(
            simulations,
            distance,
            prior,
            knowledge,
            first.examples,
            known,
            seed,
            torch.device(device),
            self.combine,
        )

    def _labels(
        self, network: nn.Module, first: Observation, knowledge: Knowledge, seed: int, device: torch.device | str
    ) -> Tensor | None:
        """Labels int64 [N], -1 for each where the loss depends on none; ``None`` where they are searched for."""
        task = knowledge.task
        if not task.labelled:
            return torch.full((first.examples,), -1, device=device)
        rule = rules.told(knowledge) if task.conditional else self.labels
        if rule is rules.optimised:
            return None
        draws = seeding.generator(seed, "attack", "labels")
        return rule(rules.Evidence.of(first, knowledge, network, draws, device)).to(device)

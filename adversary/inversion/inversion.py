"""Gradient inversion put together from its parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from adversary import labels as rules
from adversary.attack import Needs, Progress, check, failure
from adversary.inversion.distance import Distance
from adversary.inversion.optimiser import Optimiser
from adversary.inversion.prior import Prior
from adversary.inversion.simulator import Simulation, Simulator
from adversary.inversion.solver import Candidate, Solver
from adversary.network import build, mode_of
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
    """

    labels: rules.LabelRule
    simulator: Simulator
    distance: Distance
    optimiser: Optimiser
    solver: Solver
    prior: Prior | None = None
    requires: Needs = field(default_factory=Needs)

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
                images=knowledge.denormalise(solution.candidate.inputs).float().cpu(),
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
        return InversionProblem(
            simulations, self.distance, self.prior, knowledge, first.examples, known, seed, torch.device(device)
        )


@dataclass(frozen=True)
class InversionProblem:
    """The objective of an inversion and its starting points.

    Attributes:
        simulations: one an observation.
        distance: of updates.
        prior: on images, if any.
        knowledge: for shapes and normalisation.
        examples: images to find.
        labels: int64 [N] if recovered beforehand, ``None`` if they are optimised.
        seed: of the starting points.
        device: of all tensors.
    """

    simulations: Sequence[Simulation]
    distance: Distance
    prior: Prior | None
    knowledge: Knowledge
    examples: int
    labels: Tensor | None
    seed: int
    device: torch.device

    def start(self, attempt: int) -> Candidate:
        """Inputs, and label logits if labels are optimised, from N(0, 1); drawn on the CPU on any device."""
        draws = seeding.generator(self.seed, "attack", "restart", attempt)
        inputs = torch.randn(self.examples, *self.knowledge.input_shape, generator=draws)
        candidate = Candidate(inputs.to(self.device).requires_grad_())
        if self.labels is None:
            logits = torch.randn(self.examples, self.knowledge.classes, generator=draws)
            candidate.label_logits = logits.to(self.device).requires_grad_()
        return candidate

    def objective(self, candidate: Candidate) -> Tensor:
        """``mean_r distance(simulate(x, y; w_r), observed_r) + prior(x)``, a scalar."""
        labels = self.labels
        if candidate.label_logits is not None:
            labels = functional.softmax(candidate.label_logits, dim=1)
        if labels is None:
            raise ValueError("a candidate without label logits in a problem that knows no labels")
        x = candidate.inputs
        distances = [self.distance(simulate(x, labels), simulate.target) for simulate in self.simulations]
        loss = torch.stack(distances).mean()
        if self.prior is not None:
            # Not Knowledge.denormalise, whose clamp has no gradient outside the valid images.
            images = x * self._channels(self.knowledge.std) + self._channels(self.knowledge.mean)
            loss = loss + self.prior(images)
        return loss

    def project(self, candidate: Candidate) -> None:
        """Clamp the inputs to what images in [0, 1] become by normalisation, in place."""
        valid = self.knowledge.normalise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).to(self.device)
        with torch.no_grad():
            candidate.inputs.copy_(torch.minimum(torch.maximum(candidate.inputs, valid[0]), valid[1]))

    def hard_labels(self, candidate: Candidate) -> Tensor:
        """Labels int64 [N] of a candidate."""
        if candidate.label_logits is not None:
            return candidate.label_logits.argmax(dim=1)
        if self.labels is None:
            raise ValueError("a candidate without label logits in a problem that knows no labels")
        return self.labels

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

"""What an inversion asks of the solver: an objective, starting points, and which images are valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from adversary.inversion.copies import common
from adversary.inversion.distance import Distance
from adversary.inversion.prior import Prior
from adversary.inversion.simulator import Renewing, Searching, Simulation, copies_in
from adversary.inversion.solver import Candidate
from fedsim import seeding
from fedsim.protocol import Knowledge

Combine = Literal["mean", "concat"]


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
        combine: whether observations count by the mean of their distances, or by one distance of their
            updates put one after the other.
    """

    simulations: Sequence[Simulation | Searching]
    distance: Distance
    prior: Prior | None
    knowledge: Knowledge
    examples: int
    labels: Tensor | None
    seed: int
    device: torch.device
    combine: Combine = "mean"

    @property
    def copies(self) -> int:
        """Copies of the images that are searched for; more than 1 where the simulators want one an epoch."""
        return max(copies_in(simulation) for simulation in self.simulations)

    def start(self, attempt: int) -> Candidate:
        """Inputs, and label logits if labels are optimised, from N(0, 1); drawn on the CPU on any device.

        The unknowns of simulations that have some start where these say.
        """
        draws = seeding.generator(self.seed, "attack", "restart", attempt)
        inputs = torch.randn(self.copies * self.examples, *self.knowledge.input_shape, generator=draws)
        unknowns = [s.start().requires_grad_() for s in self.simulations if isinstance(s, Searching)]
        candidate = Candidate(inputs.to(self.device).requires_grad_(), unknowns=tuple(unknowns))
        if self.labels is None:
            logits = torch.randn(self.examples, self.knowledge.classes, generator=draws)
            candidate.label_logits = logits.to(self.device).requires_grad_()
        return candidate

    def objective(self, candidate: Candidate) -> Tensor:
        """``mean_r distance(simulate(x, y; w_r), observed_r) + prior(x)``, a scalar."""
        x, labels = candidate.inputs, self._labels(candidate)
        pairs = [(simulate(x, labels), simulate.target) for simulate in self._simulations(candidate)]
        if self.combine == "concat":
            loss = self.distance([t for update, _ in pairs for t in update], [t for _, target in pairs for t in target])
        else:
            loss = torch.stack([self.distance(update, target) for update, target in pairs]).mean()
        if self.prior is not None:
            # Not Knowledge.denormalise, whose clamp has no gradient outside the valid images.
            images = x * self._channels(self.knowledge.std) + self._channels(self.knowledge.mean)
            loss = loss + self.prior(images.view(self.copies, -1, *images.shape[1:]) if self.copies > 1 else images)
        return loss

    def renew(self, candidate: Candidate, iteration: int) -> None:
        """Let simulations set their targets anew."""
        labels = self._labels(candidate).detach()
        for simulation in self._simulations(candidate):
            if isinstance(simulation, Renewing):
                simulation.renew(candidate.inputs.detach(), labels, iteration)

    def project(self, candidate: Candidate) -> None:
        """Clamp the inputs to what images in [0, 1] become by normalisation, in place; unknowns likewise."""
        valid = self.knowledge.normalise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).to(self.device)
        with torch.no_grad():
            candidate.inputs.copy_(torch.minimum(torch.maximum(candidate.inputs, valid[0]), valid[1]))
        searching = [s for s in self.simulations if isinstance(s, Searching)]
        for simulation, unknown in zip(searching, candidate.unknowns, strict=True):
            simulation.project(unknown)

    def images(self, candidate: Candidate) -> Tensor:
        """Images of a candidate, float32 [N, C, H, W] in [0, 1] on the CPU; what its copies have in common."""
        images = self.knowledge.denormalise(candidate.inputs)
        if self.copies > 1:
            images = common(images.view(self.copies, self.examples, *images.shape[1:]), self.hard_labels(candidate))
        return images.float().cpu()

    def hard_labels(self, candidate: Candidate) -> Tensor:
        """Labels int64 [N] of a candidate."""
        labels = self._labels(candidate)
        return labels.argmax(dim=1) if labels.ndim > 1 else labels

    def _labels(self, candidate: Candidate) -> Tensor:
        if candidate.label_logits is not None:
            return functional.softmax(candidate.label_logits, dim=1)
        if self.labels is None:
            raise ValueError("a candidate without label logits in a problem that knows no labels")
        return self.labels

    def _simulations(self, candidate: Candidate) -> list[Simulation]:
        unknowns = iter(candidate.unknowns)
        return [s.at(next(unknowns)) if isinstance(s, Searching) else s for s in self.simulations]

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

"""Several starting points searched together, each pulled to what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adversary.inversion.problem import InversionProblem
from adversary.inversion.solver import Candidate


@dataclass(frozen=True)
class Group:
    """An inversion from several starting points at once: ``mean_k (J(x_k) + weight |x_k - E|)``.

    GradInversion's group consistency (Yin et al., CVPR 2021, arXiv:2104.07586), with ``E`` the pixelwise mean
    of the group, which the paper calls lazy; its registered variant warps the images to their mean first. The
    distance is a root mean square over all inputs; ``E`` is held while a step is taken. The inputs of all members
    stand one after the other.

    Attributes:
        problem: that of each member.
        size: starting points.
        weight: of the consistency; 0 searches for each alone.
    """

    problem: InversionProblem
    size: int
    weight: float

    def start(self, attempt: int) -> Candidate:
        """The starting points that ``size`` attempts at the problem have; for an attempt, others than for the last."""
        members = [self.problem.start(attempt * self.size + number) for number in range(self.size)]
        inputs = torch.cat([member.inputs.detach() for member in members]).requires_grad_()
        logits = [member.label_logits.detach() for member in members if member.label_logits is not None]
        return Candidate(inputs, torch.cat(logits).requires_grad_() if logits else None)

    def objective(self, candidate: Candidate) -> Tensor:
        """The mean over members of their objective and consistency, a scalar."""
        members = self.members(candidate)
        losses = torch.stack([self.problem.objective(member) for member in members])
        inputs = torch.stack([member.inputs for member in members])
        apart = (inputs - inputs.detach().mean(dim=0)).square().flatten(1).mean(dim=1)
        # Below the root a hair more than 0, where its derivative is infinite.
        return losses.mean() + self.weight * (apart + 1e-12).sqrt().mean()

    def project(self, candidate: Candidate) -> None:
        """As the problem does, in place."""
        self.problem.project(candidate)

    def best(self, candidate: Candidate) -> Candidate:
        """The member whose own objective is least."""
        members = self.members(candidate)
        with torch.enable_grad():  # the objective holds gradients with respect to the weights
            losses = [self.problem.objective(member).item() for member in members]
        return members[min(range(self.size), key=losses.__getitem__)]

    def members(self, candidate: Candidate) -> list[Candidate]:
        """Each member's share, which the candidate's gradients flow through."""
        inputs = candidate.inputs.chunk(self.size)
        if candidate.label_logits is None:
            return [Candidate(own) for own in inputs]
        return [Candidate(x, q) for x, q in zip(inputs, candidate.label_logits.chunk(self.size), strict=True)]

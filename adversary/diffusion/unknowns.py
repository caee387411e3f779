"""The search of ``gidm_plus`` for image and noise at a step of the schedule, in variables to be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from adversary.diffusion.conjugate import solve
from adversary.diffusion.observed import Observed
from adversary.diffusion.residual import fit, rotate_back
from adversary.inversion import Candidate
from fedsim import seeding

Variables = Literal["image_noise", "noisy_velocity", "noisy_residual", "noisy"]
"""What is searched: image and noise; ``x_t`` and what the network should answer to it (the velocity, or the noise);
``x_t`` and the residual of that answer; or ``x_t`` alone, with the residual solved for."""

LARGEST_JACOBIAN = 1 << 27
"""Numbers in the Jacobian, a gigabyte in float64, above which the residual is solved for without writing it down."""


class Point(NamedTuple):
    """A guess as the loss sees it; all [1, C, H, W].

    Attributes:
        noisy: ``x_t``.
        answer: of the network to it.
        residual: of the answer.
    """

    noisy: Tensor
    answer: Tensor
    residual: Tensor


@dataclass(frozen=True, eq=False)
class Unknowns:
    """The relative squared gap to an observed gradient as an objective of image and noise.

    Whatever the variables, a start with the same number is at the same image and the same noise, except that with
    ``noisy_residual`` the residual is shrunk or stretched until its gradient is as long as the one observed.

    Attributes:
        seen: the gradient.
        t: step of the schedule, int64 [1].
        seed: of the starts.
        variables: what is searched; of no effect where the noise is known.
        noise: of the example where it is known, [1, C, H, W].
        first: ``x_t`` where the first search begins, if there is a guess of it, [1, C, H, W].
    """

    seen: Observed
    t: Tensor
    seed: int
    variables: Variables = "image_noise"
    noise: Tensor | None = None
    first: Tensor | None = None

    def start(self, attempt: int) -> Candidate:
        """The guess of ``x_t`` with the residual that fits it best, or an image and a noise from N(0, 1)."""
        if attempt == 0 and self.first is not None:
            noisy = self.first.to(self.seen.like)
            with torch.enable_grad():
                answer = self.seen.network(noisy, self.t).detach()
                return self._candidate(noisy, answer - self._solved(noisy), fits=True)
        draws = seeding.generator(self.seed, "attack", "unknowns", attempt)
        image, noise = (torch.randn(self.seen.shape, generator=draws).to(self.seen.like) for _ in range(2))
        return self._candidate(*self.seen.objective.posed(image, noise, self.t), fits=False)

    def objective(self, candidate: Candidate) -> Tensor:
        """``|g' - g|^2 / |g|^2``, a scalar.

        For ``noisy`` it is at the residual of least squares, which by the envelope theorem has no share in the
        derivative.
        """
        point = self._point(candidate)
        weight = self.seen.objective.weights(self.t, point.noisy)
        return self.seen.gap(point.answer, point.residual, weight)

    def project(self, candidate: Candidate) -> None:
        """Noisy images have no range."""

    def found(self, candidate: Candidate) -> tuple[Tensor, Tensor]:
        """Image, as the network is fed, and noise of a candidate, both [1, C, H, W]."""
        if self.noise is not None:
            return candidate.inputs.detach(), self.noise
        if self.variables == "image_noise":
            return candidate.inputs.detach(), candidate.unknowns[0].detach()
        with torch.enable_grad():
            point = self._point(candidate)
        noisy, wanted = point.noisy.detach(), (point.answer - point.residual).detach()
        return rotate_back(self.seen.objective, noisy, wanted, self.t)

    def _point(self, candidate: Candidate) -> Point:
        first = candidate.inputs
        if self.noise is not None or self.variables == "image_noise":
            noise = candidate.unknowns[0] if self.noise is None else self.noise
            noisy, wanted = self.seen.objective.posed(first, noise, self.t)
            answer = self.seen.network(noisy, self.t)
            return Point(noisy, answer, answer - wanted)
        answer = self.seen.network(first, self.t)
        if self.variables == "noisy":
            return Point(first, answer, self._solved(first.detach()))
        (second,) = candidate.unknowns
        return Point(first, answer, answer - second if self.variables == "noisy_velocity" else second)

    def _candidate(self, noisy: Tensor, wanted: Tensor, *, fits: bool) -> Candidate:
        """The candidate at ``x_t`` and what the network should answer; ``fits`` if its residual has the right size."""
        if self.noise is not None or self.variables == "image_noise":
            image, noise = rotate_back(self.seen.objective, noisy, wanted, self.t)
            return _leaves(image) if self.noise is not None else _leaves(image, noise)
        if self.variables == "noisy":
            return _leaves(noisy)
        if self.variables == "noisy_velocity":
            return _leaves(noisy, wanted)
        with torch.enable_grad():
            answer = self.seen.network(noisy, self.t)
            residual = answer.detach() - wanted
            return _leaves(noisy, residual if fits else residual * self._stretch(answer, residual))

    def _stretch(self, answer: Tensor, residual: Tensor) -> Tensor:
        """What the residual is multiplied by for its gradient to be as long as the one observed."""
        weight = self.seen.objective.weights(self.t, answer)
        # |k u - g|^2 / |g|^2 at k = 1 and -1 gives |u|^2 / |g|^2 without the vector u.
        both = torch.stack([self.seen.gap(answer, sign * residual, weight).detach() for sign in (1, -1)])
        return (both.mean() - 1).clamp_min(torch.finfo(answer.dtype).tiny).rsqrt()

    def _solved(self, noisy: Tensor) -> Tensor:
        """The residual that explains the gradient best at ``x_t``."""
        entries = noisy.numel() * sum(gradient.numel() for gradient in self.seen.gradients.values())
        by = fit if entries <= LARGEST_JACOBIAN else solve
        return by(self.seen.network, self.seen.gradients, self.seen.objective, noisy, self.t).residual


def _leaves(*tensors: Tensor) -> Candidate:
    first, *others = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    return Candidate(first, unknowns=tuple(others))

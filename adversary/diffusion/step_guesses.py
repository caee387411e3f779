"""The unknown step of one example: read, tried one by one, or relaxed and searched with image and noise.

How GIDM+ relaxes it is not published in a form that its code carries out; ``soft`` and ``gumbel`` are the two usual
relaxations of a discrete choice, the expectation and the straight-through sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary.diffusion.observed import Observed
from adversary.diffusion.steps import embeddings, read_step
from adversary.diffusion.unknowns import Unknowns
from adversary.inversion import LBFGS, Adam, Candidate, Solver
from fedsim import seeding
from fedsim.diffusion.parametrisation import noised, target

Guess = Literal["readout", "enumerate", "soft", "gumbel"]

COARSE = 32
"""Steps that ``enumerate`` tries of a longer schedule, before those around the best one."""

SHORT = 200
"""Iterations of a search that tries one step; with 60 the wrong ones are still as good as the right one."""

RELAXED = 3_200
"""Iterations of a search with the step relaxed; as many as of 16 short ones."""

RATE = 0.02
"""Of Adam, for image, noise and logits alike."""


def guess(how: Guess, seen: Observed, *, seed: int, noise: Tensor | None = None) -> int:
    """The step of the example behind a gradient.

    Args:
        how: ``readout`` from the time embedding's gradient; ``enumerate`` by a short search at each step of the
            schedule, or on a grid and then around its best; ``soft`` by weights over all steps, with the expected
            embedding and noise level; ``gumbel`` by a sample of them that passes gradients straight through.
        seen: the gradient.
        seed: of starts and samples.
        noise: of the example where it is known.

    Raises:
        FedsimError: the network embeds steps in another way than diffusers' UNets.
    """
    steps = len(seen.objective.schedule)
    if how == "readout":
        return read_step(seen.network, seen.gradients, steps)
    if how == "enumerate":
        return _tried(seen, steps, seed, noise)
    return _relaxed(Relaxed(seen, seed, hard=how == "gumbel", noise=noise))


def _tried(seen: Observed, steps: int, seed: int, noise: Tensor | None) -> int:
    stride = max(1, -(-steps // COARSE))
    best, losses = 0, dict[int, float]()
    candidates = list(range(0, steps, stride))
    while candidates:
        for t in candidates:
            problem = Unknowns(seen, torch.tensor([t], device=seen.like.device), seed, noise=noise)
            losses[t] = Solver(SHORT, tolerance=1e-10).solve(problem, LBFGS(line_search=True, history=30)).loss
        best = min(losses, key=losses.__getitem__)
        stride //= 2
        around = (best - stride, best + stride) if stride else ()
        candidates = [t for t in around if 0 <= t < steps and t not in losses]
    return best


def _relaxed(problem: Relaxed) -> int:
    found = Solver(RELAXED).solve(problem, Adam(RATE, boxed=False))
    return 0 if found.candidate is None else int(found.candidate.unknowns[-1].argmax())


class Relaxed:
    """The gap to a gradient as an objective of image, noise and weights over steps.

    Args:
        seen: the gradient.
        seed: of starts and samples.
        hard: whether a single step is sampled, with the derivatives of the weights.
        noise: where it is known.
    """

    def __init__(self, seen: Observed, seed: int, *, hard: bool, noise: Tensor | None = None) -> None:
        self.seen, self.seed, self.hard, self.noise = seen, seed, hard, noise
        self._draws = seeding.generator(seed, "attack", "gumbel")
        self._embeddings = embeddings(seen.network, len(seen.objective.schedule)).to(seen.like)

    def start(self, attempt: int) -> Candidate:
        """Image and noise from N(0, 1), and equal weights."""
        draws = seeding.generator(self.seed, "attack", "unknowns", attempt)
        image, noise = (torch.randn(self.seen.shape, generator=draws).to(self.seen.like) for _ in range(2))
        logits = torch.zeros(len(self.seen.objective.schedule)).to(self.seen.like)
        unknowns = (logits,) if self.noise is not None else (noise, logits)
        return Candidate(image.requires_grad_(), unknowns=tuple(unknown.requires_grad_() for unknown in unknowns))

    def objective(self, candidate: Candidate) -> Tensor:
        """That of ``Unknowns``, at the mixture of steps."""
        *others, logits = candidate.unknowns
        noise = others[0] if self.noise is None else self.noise
        weights, goal = self._weights(logits), self.seen.objective
        share = weights @ goal.schedule.alpha_bar.to(weights)
        a, b = share.sqrt(), (1 - share).clamp_min(0).sqrt()
        noisy = noised(candidate.inputs, noise, a, b)
        any_step = torch.zeros(1, dtype=torch.int64, device=noisy.device)
        with _embedding(self.seen.network, weights @ self._embeddings):
            answer = self.seen.network(noisy, any_step)
        weight = share if goal.prediction == "v" and goal.weighted else 1.0
        return self.seen.gap(answer, answer - target(goal.prediction, candidate.inputs, noise, a, b), weight)

    def project(self, candidate: Candidate) -> None:
        """Noisy images have no range."""

    def _weights(self, logits: Tensor) -> Tensor:
        if not self.hard:
            return logits.softmax(0)
        uniform = torch.rand(logits.shape, generator=self._draws).to(logits).clamp(1e-12, 1 - 1e-7)
        sampled = (logits - uniform.log().neg().log()).softmax(0)
        one = functional.one_hot(sampled.argmax(), len(logits)).to(logits)
        return one - sampled.detach() + sampled


@contextmanager
def _embedding(network: nn.Module, mixture: Tensor) -> Iterator[None]:
    """Have the network's time network fed this, [d_e], whatever step it is asked at."""

    def instead(module: nn.Module, given: Any, result: Tensor) -> Tensor:  # noqa: ARG001
        return mixture.to(result).expand_as(result)

    embedding = [m for name, m in network.named_modules() if name.rpartition(".")[2] == "time_proj"]
    handles = [module.register_forward_hook(instead) for module in embedding]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

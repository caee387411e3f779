"""The search of many victims at once: each in a lane of its own, by the rules of the solver."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adversary.inversion.compiling import compiled as compile_step
from adversary.inversion.inversion import Inversion
from adversary.inversion.objectives import objectives
from adversary.inversion.optimiser import Adam
from adversary.inversion.problem import InversionProblem
from adversary.inversion.solver import Attempt, Ended, Solution
from adversary.inversion.tracing import traced

WORTH_TRACING = 100
"""Iterations after which writing down the step's operations once, a second or two, has paid for itself."""


def solve(attack: Inversion, problems: Sequence[InversionProblem], *, compiled: bool) -> list[Solution]:
    """The solution of each problem; an attempt of each is under way at any time until its search is over."""
    optimiser = attack.optimiser
    if not isinstance(optimiser, Adam):
        raise TypeError("a batch is searched by Adam")
    lanes = [_Lane(problem, attack.solver.attempts(problem)) for problem in problems]
    for lane in lanes:
        lane.advance(optimiser.boxed)
    while running := [lane for lane in lanes if lane.solution is None]:
        _run(attack, optimiser, running, compiled=compiled)
    return [lane.solution for lane in lanes if lane.solution is not None]


@dataclass
class _Lane:
    """One victim's place in the batch.

    Attributes:
        problem: of the victim.
        attempts: its search.
        attempt: under way.
        steps: that the attempt has taken.
        solution: once the search is over.
        moments: of Adam, where the lane waits to be put into another batch.
    """

    problem: InversionProblem
    attempts: Generator[Attempt, None, Solution]
    attempt: Attempt = field(init=False)
    steps: int = 0
    solution: Solution | None = None
    moments: tuple[Tensor, Tensor] = field(init=False)

    def advance(self, boxed: bool) -> None:
        """Begin the next attempt, or put down the solution if there is none."""
        try:
            self.attempt = next(self.attempts)
        except StopIteration as over:
            self.solution = over.value
            return
        if boxed:
            self.problem.project(self.attempt.candidate)
        self.steps = 0
        self.moments = (torch.zeros_like(self.inputs), torch.zeros_like(self.inputs))

    def note(self, inputs: Tensor, loss: float, *, boxed: bool) -> bool:
        """Take down the objective at these inputs; whether the attempt goes on from them."""
        self.attempt.candidate.inputs = inputs
        try:
            self.attempt.note(loss)
        except Ended as ended:
            self.attempt.stopped_by = ended.reason
            self.advance(boxed)
            return False
        self.steps += 1
        return True

    @property
    def inputs(self) -> Tensor:
        return self.attempt.candidate.inputs.detach()


def _run(attack: Inversion, optimiser: Adam, lanes: Sequence[_Lane], *, compiled: bool) -> None:
    """Search until at most half of the lanes are running, or none if there is but one."""
    solver = attack.solver
    milestones = sorted(round(fraction * solver.iterations) for fraction in optimiser.decay_at)
    x = torch.stack([lane.inputs for lane in lanes])
    first, second = (torch.stack([lane.moments[i] for lane in lanes]) for i in (0, 1))
    least, most = _box([lane.problem for lane in lanes])
    step = objectives(attack.distance, attack.prior, [lane.problem for lane in lanes])  # type: ignore[arg-type]
    if solver.iterations >= WORTH_TRACING:
        step = traced(step, x)
        if compiled:
            step = compile_step(step, x)
    running = len(lanes)
    # A narrower batch is cheaper by the iteration, but to be traced anew; to compile it anew does not pay.
    enough = 0 if compiled else len(lanes) // 2
    with torch.no_grad():
        while running > enough:
            gradient, losses = step(x)
            restarted = [
                i
                for i, (lane, own, loss) in enumerate(zip(lanes, x.unbind(), losses.tolist(), strict=True))
                if lane.solution is None and not lane.note(own, loss, boxed=optimiser.boxed)
            ]
            steps = [lane.steps for lane in lanes]
            x, first, second = _adam_step(optimiser, milestones, steps, x, first, second, gradient)
            if optimiser.boxed:
                x = x.clamp(least, most)
            for i in restarted:
                x[i] = lanes[i].inputs
                first[i] = second[i] = 0
            running = sum(lane.solution is None for lane in lanes)
    for i, lane in enumerate(lanes):
        lane.attempt.candidate.inputs = x[i]
        lane.moments = (first[i], second[i])


def _adam_step(
    optimiser: Adam,
    milestones: Sequence[int],
    steps: Sequence[int],
    x: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam (Kingma, Ba 2015, algorithm 1) with each lane's own t and step size: the new x and moments."""
    if optimiser.signed:
        gradient = gradient.sign()
    t = [max(1, step) for step in steps]
    rates = [optimiser.learning_rate * optimiser.decay ** bisect_right(milestones, step - 1) for step in t]
    first = first.lerp(gradient, 1 - 0.9)
    second = (second * 0.999).addcmul_(gradient, gradient, value=1 - 0.999)
    scale = _each(x, [rate / (1 - 0.9**step) for rate, step in zip(rates, t, strict=True)])
    root = _each(x, [(1 - 0.999**step) ** 0.5 for step in t])
    return x - scale * first / (second.sqrt().div_(root).add_(1e-8)), first, second


def _each(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))


def _box(problems: Sequence[InversionProblem]) -> tuple[Tensor, Tensor]:
    """What black and white become by each victim's normalisation, each [V, 1, C, 1, 1]."""
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    valid = torch.stack([p.knowledge.normalise(black_and_white) for p in problems]).to(problems[0].device)
    return valid[:, :1], valid[:, 1:]

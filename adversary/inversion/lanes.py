"""The search of many victims at once, and of their restarts: each in a lane of its own, by the rules of the solver."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from adversary.inversion.compiling import compiled as compile_step
from adversary.inversion.inversion import Inversion
from adversary.inversion.objectives import objectives
from adversary.inversion.optimiser import Adam
from adversary.inversion.problem import InversionProblem
from adversary.inversion.solver import Attempt, Ended, Solution, Solver
from adversary.inversion.tracing import traced

WORTH_TRACING = 100
"""Iterations after which writing down the step's operations once, a second or two, has paid for itself."""


def solve(attack: Inversion, problems: Sequence[InversionProblem], *, compiled: bool) -> list[Solution]:
    """The solution of each problem; until its search is over, as many attempts are under way as ``ahead`` says."""
    optimiser = attack.optimiser
    if not isinstance(optimiser, Adam):
        raise TypeError("a batch is searched by Adam")
    searches = [_Search(problem, attack.solver) for problem in problems]
    lanes = [_Lane(search, optimiser.boxed) for search in searches for _ in range(ahead(attack.solver))]
    while running := [lane for lane in lanes if lane.running]:
        _run(attack, optimiser, running, compiled=compiled)
    return [search.solution for search in searches if search.solution is not None]


def ahead(solver: Solver) -> int:
    """How many attempts of a victim are searched at once.

    All of them, where no restart can make the next one needless; else one, as a search that a good start
    ends would have been paid for several times over.
    """
    return 1 if solver.tolerance > 0 or solver.satisfied > 0 else solver.restarts


class _Search:
    """One victim's, by the rules of the solver, whatever the order in which its attempts end.

    Attributes:
        problem: of the victim.
        solution: once the search is over.
    """

    def __init__(self, problem: InversionProblem, solver: Solver) -> None:
        self.problem = problem
        self.solution: Solution | None = None
        self._solver = solver
        self._judged = solver.attempts(problem)
        self._waiting: Attempt = next(self._judged)
        self._begun = self._number = 0
        self._ended: dict[int, Attempt] = {}

    def begin(self) -> tuple[int, Attempt] | None:
        """The next attempt and its number, if there is one to begin."""
        number = self._begun
        if self.solution is not None or number >= max(ahead(self._solver), self._number + 1):
            return None
        self._begun += 1
        return number, Attempt(self._solver, self.problem, self.problem.start(number), math.inf, 0, None, None)

    def end(self, number: int, attempt: Attempt) -> None:
        """Judge what has been searched, in the order of attempts."""
        self._ended[number] = attempt
        while self.solution is None and self._number in self._ended:
            found = self._ended.pop(self._number)
            self._waiting.history, self._waiting.kept = found.history, found.kept
            self._waiting.loss, self._waiting.stopped_by = found.loss, found.stopped_by
            self._number += 1
            try:
                self._waiting = next(self._judged)
            except StopIteration as over:
                self.solution = over.value


class _Lane:
    """A place in the batch, in which one attempt of a victim after the other is searched.

    Attributes:
        problem: of the victim.
        steps: that the attempt has taken.
        moments: of Adam, where the lane waits to be put into another batch.
    """

    def __init__(self, search: _Search, boxed: bool) -> None:
        self.problem, self._search, self._boxed = search.problem, search, boxed
        self.advance()

    def advance(self) -> None:
        """Begin the next attempt, or be over if there is none."""
        begun = self._search.begin()
        self._over = begun is None
        if begun is not None:
            self._number, self.attempt = begun
            if self._boxed:
                self.problem.project(self.attempt.candidate)
        self.steps = 0
        self.moments = (torch.zeros_like(self.inputs), torch.zeros_like(self.inputs))

    def note(self, inputs: Tensor, loss: float) -> bool:
        """Take down the objective at these inputs; whether the attempt goes on from them."""
        self.attempt.candidate.inputs = inputs
        try:
            self.attempt.note(loss)
        except Ended as ended:
            self.attempt.stopped_by = ended.reason
            self._search.end(self._number, self.attempt)
            self.advance()
            return False
        self.steps += 1
        return True

    @property
    def running(self) -> bool:
        """Whether there is an attempt under way, and its victim's search is not over."""
        return not self._over and self._search.solution is None

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
                if lane.running and not lane.note(own, loss)
            ]
            steps = [lane.steps for lane in lanes]
            x, first, second = _adam_step(optimiser, milestones, steps, x, first, second, gradient)
            if optimiser.boxed:
                x = x.clamp(least, most)
            for i in restarted:
                x[i] = lanes[i].inputs
                first[i] = second[i] = 0
            running = sum(lane.running for lane in lanes)
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

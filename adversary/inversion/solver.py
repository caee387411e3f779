"""The loop: restarts, budgets and early stop, judged by the attack's own objective and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from adversary.inversion.optimiser import Optimiser
from fedsim.errors import invalid


@dataclass
class Candidate:
    """What is searched for: leaf tensors on the device.

    Attributes:
        inputs: as the network is fed, [N, C, H, W].
        label_logits: [N, classes] where labels are optimised with the inputs.
        unknowns: of the simulations that have some.
    """

    inputs: Tensor
    label_logits: Tensor | None = None
    unknowns: tuple[Tensor, ...] = ()

    def variables(self) -> list[Tensor]:
        """The tensors to optimise."""
        logits = [] if self.label_logits is None else [self.label_logits]
        return [self.inputs, *logits, *self.unknowns]

    def snapshot(self) -> Candidate:
        """A copy that stays as it is while the search goes on."""
        logits = None if self.label_logits is None else self.label_logits.detach().clone()
        unknowns = tuple(unknown.detach().clone() for unknown in self.unknowns)
        return Candidate(self.inputs.detach().clone(), logits, unknowns)


class Problem(Protocol):
    """What is to be solved."""

    def start(self, attempt: int) -> Candidate:
        """The starting point of an attempt, from 0; the same number gives the same point."""

    def objective(self, candidate: Candidate) -> Tensor:
        """What is minimised, a scalar."""

    def project(self, candidate: Candidate) -> None:
        """Put the candidate's inputs back among valid images, in place."""


@runtime_checkable
class Moving(Protocol):
    """A problem whose objective changes as the search goes on."""

    def renew(self, candidate: Candidate, iteration: int) -> None:
        """Change it, if it is time, after ``iteration`` evaluations; 0 begins an attempt."""


@dataclass(frozen=True)
class Solution:
    """What a search found.

    Attributes:
        candidate: the best one met, ``None`` if the objective was never finite.
        loss: its objective.
        history: objective at every evaluation of the attempt it comes from.
        iterations: evaluations of the objective over all attempts.
        stopped_by: why that attempt ended.
    """

    candidate: Candidate | None
    loss: float
    history: tuple[float, ...]
    iterations: int
    stopped_by: str


@dataclass(frozen=True)
class Solver:
    """Minimises a problem's objective from one or several starting points.

    An iteration is one evaluation of the objective and its gradient: one step of Adam, one of up to 20
    inner evaluations of an L-BFGS step. Of all iterates met the one with the least objective is kept, of
    all restarts likewise. An attempt that leaves the finite numbers is replaced by a new one.

    Attributes:
        iterations: budget of each restart.
        restarts: starting points tried, unless one reaches ``tolerance`` first.
        seconds: wall-clock budget over all restarts; the only thing that makes results depend on time.
        tolerance: an objective this low ends the search.
        patience: a restart ends when its objective has not fallen by ``gain`` for so many iterations.
        gain: least relative fall that counts.
        retries: diverged attempts that are replaced, over all restarts.
        satisfied: no further restart follows one that got below this.
        settled: share of a restart's iterations after which iterates may be kept. Where the objective jumps,
            as with ReLU, a low value at a large step size is luck; a restart cut short keeps its best.

    Raises:
        FedsimError: there is no restart.
    """

    iterations: int
    restarts: int = 1
    seconds: float | None = None
    tolerance: float = 0.0
    patience: int | None = None
    gain: float = 0.01
    retries: int = 3
    satisfied: float = 0.0
    settled: float = 0.0

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise invalid("restarts", self.restarts, "must be 1 or more", "Correct it")

    def solve(
        self, problem: Problem, optimiser: Optimiser, progress: Callable[[int, float], None] | None = None
    ) -> Solution:
        """Search until a restart reaches the tolerance or the budgets are spent."""
        searches = self.attempts(problem, progress)
        while True:
            try:
                next(searches).run(optimiser)
            except StopIteration as over:
                solution: Solution = over.value
                return solution

    def attempts(
        self, problem: Problem, progress: Callable[[int, float], None] | None = None
    ) -> Generator[Attempt, None, Solution]:
        """The attempts one after the other, each to be carried out by the caller before it asks for the next one."""
        deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds
        best: Attempt | None = None
        iterations = attempt = finished = diverged = 0
        while finished < self.restarts and time.monotonic() < deadline:
            search = Attempt(self, problem, problem.start(attempt), deadline, iterations, best, progress)
            yield search
            attempt += 1
            iterations += len(search.history)
            if best is None or search.loss < best.loss:
                best = search
            if search.stopped_by == "diverged" and diverged < self.retries:
                diverged += 1
                continue
            finished += 1
            if search.stopped_by == "tolerance" or best.loss < self.satisfied:
                break
        if best is None or best.kept is None:
            return Solution(None, math.nan, () if best is None else tuple(best.history), iterations, "diverged")
        reason = "seconds" if time.monotonic() >= deadline else best.stopped_by
        return Solution(best.kept, best.loss, tuple(best.history), iterations, reason)


class Ended(Exception):  # noqa: N818  (flow control: it leaves the middle of an optimiser's step)
    """An attempt is over."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


@dataclass
class Attempt:
    """One starting point and the search from it, which ``run`` carries out, or a caller that tells ``note`` of it."""

    solver: Solver
    problem: Problem
    candidate: Candidate
    deadline: float
    before: int
    rival: Attempt | None
    progress: Callable[[int, float], None] | None
    history: list[float] = field(default_factory=list)
    kept: Candidate | None = None
    loss: float = math.inf
    stopped_by: str = "iterations"
    _settled: bool = False
    _gained_at: int = 0
    _gained_to: float = math.inf

    def run(self, optimiser: Optimiser) -> None:
        if optimiser.boxed:
            self.problem.project(self.candidate)
        step = optimiser.begin(self.candidate.variables(), self.solver.iterations)
        try:
            moving = self.problem if isinstance(self.problem, Moving) else None
            while True:
                if moving is not None:
                    moving.renew(self.candidate, len(self.history))
                step(self.evaluate)
                if optimiser.boxed:
                    self.problem.project(self.candidate)
        except Ended as ended:
            self.stopped_by = ended.reason

    def evaluate(self) -> Tensor:
        """The objective and its gradient; keeps the best candidate and ends the attempt when it is time."""
        variables = self.candidate.variables()
        with torch.enable_grad():
            loss = self.problem.objective(self.candidate)
            # Not loss.backward(), which would also work out gradients with respect to the weights.
            gradients = torch.autograd.grad(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient
        self.note(loss.item())
        return loss.detach()

    def note(self, value: float) -> None:
        """Take down the objective at the candidate as it is, which is kept if it is the best.

        Raises:
            Ended: the attempt is over; ``stopped_by`` is not set.
        """
        self.history.append(value)
        if not math.isfinite(value):
            raise Ended("diverged")
        now_settled = len(self.history) > self.solver.settled * self.solver.iterations
        if value < self.loss or (now_settled and not self._settled):
            self.loss, self.kept = value, self.candidate.snapshot()
        self._settled = now_settled
        self._report()
        self._stop_if_due(value)

    def _report(self) -> None:
        if self.progress is not None:
            rival = math.inf if self.rival is None else self.rival.loss
            self.progress(self.before + len(self.history), min(self.loss, rival))

    def _stop_if_due(self, value: float) -> None:
        done = len(self.history)
        if value < self._gained_to * (1 - self.solver.gain):
            self._gained_at, self._gained_to = done, value
        if value <= self.solver.tolerance:
            raise Ended("tolerance")
        if done >= self.solver.iterations:
            raise Ended("iterations")
        if time.monotonic() >= self.deadline:
            raise Ended("seconds")
        if self.solver.patience is not None and done - self._gained_at >= self.solver.patience:
            raise Ended("patience")

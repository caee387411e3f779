"""The solver on problems whose solutions are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from adversary.inversion import LBFGS, Adam, Candidate, Solver


@dataclass
class Valleys:
    """A function of one number with minima at -2 (value 1.5) and 3 (value 0.5); attempts start where told."""

    starts: list[float]
    attempts: list[int] = field(default_factory=list)

    def start(self, attempt: int) -> Candidate:
        self.attempts.append(attempt)
        return Candidate(torch.tensor([self.starts[attempt]]).requires_grad_())

    def objective(self, candidate: Candidate) -> Tensor:
        x = candidate.inputs
        return torch.minimum((x + 2).square() + 1, (x - 3).square()).sum() + 0.5

    def project(self, candidate: Candidate) -> None:
        with torch.no_grad():
            candidate.inputs.clamp_(-10, 2.5)


GENTLE = Adam(learning_rate=0.1, boxed=False)


def test_the_restart_with_the_least_objective_is_kept() -> None:
    problem = Valleys([-4.0, 5.0, -3.0])
    found = Solver(iterations=300, restarts=3).solve(problem, GENTLE)
    assert problem.attempts == [0, 1, 2]
    assert found.candidate is not None
    assert found.candidate.inputs.item() == pytest.approx(3, abs=1e-2)
    assert found.loss == pytest.approx(0.5, abs=1e-3)
    assert found.iterations == 900
    assert len(found.history) == 300
    assert found.history[0] == 4.5  # the history of the restart that was kept


def test_more_restarts_never_make_the_objective_worse() -> None:
    losses = [
        Solver(iterations=50, restarts=k).solve(Valleys([-4.0, -2.5, 5.0, 0.6]), GENTLE).loss for k in (1, 2, 3, 4)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_start_that_is_not_a_number_is_replaced() -> None:
    problem = Valleys([math.nan, math.nan, 2.0])
    found = Solver(iterations=300).solve(problem, GENTLE)
    assert problem.attempts == [0, 1, 2]
    assert found.candidate is not None
    assert found.loss == pytest.approx(0.5, abs=1e-3)
    assert found.stopped_by == "iterations"


def test_where_every_start_diverges_the_solver_says_so() -> None:
    found = Solver(iterations=10, retries=2).solve(Valleys([math.nan] * 5), GENTLE)
    assert found.candidate is None
    assert math.isnan(found.loss)
    assert found.stopped_by == "diverged"
    assert found.iterations == 3


def test_what_was_found_before_divergence_is_kept() -> None:
    class Cliff(Valleys):
        def objective(self, candidate: Candidate) -> Tensor:
            loss = super().objective(candidate)
            return torch.where(candidate.inputs > 2.8, torch.full_like(loss, torch.nan), loss).sum()

    found = Solver(iterations=300, retries=0).solve(Cliff([2.0]), GENTLE)
    assert found.stopped_by == "diverged"
    assert found.candidate is not None
    assert 2.6 < found.candidate.inputs.item() <= 2.8


def test_reaching_the_tolerance_ends_the_search() -> None:
    problem = Valleys([5.0, 5.0])
    found = Solver(iterations=1000, restarts=2, tolerance=0.5001).solve(problem, LBFGS())
    assert found.stopped_by == "tolerance"
    assert found.loss <= 0.5001
    assert problem.attempts == [0]
    assert found.iterations < 50


def test_a_satisfying_restart_is_not_followed_by_another() -> None:
    problem = Valleys([-4.0, 5.0, 5.0])
    Solver(iterations=300, restarts=3, satisfied=1.0).solve(problem, GENTLE)
    assert problem.attempts == [0, 1]


def test_a_restart_that_no_longer_gains_ends_by_patience() -> None:
    found = Solver(iterations=10_000, patience=40).solve(Valleys([-4.0]), GENTLE)
    assert found.stopped_by == "patience"
    assert found.iterations < 1_000
    assert found.loss == pytest.approx(1.5, abs=1e-2)


def test_the_best_iterate_is_kept_not_the_last() -> None:
    """Steps far too long pass the minimum and go on."""
    found = Solver(iterations=20).solve(Valleys([2.0]), Adam(learning_rate=1.0, boxed=False))
    assert found.loss == min(found.history)
    assert found.loss < found.history[-1]


def test_iterates_before_the_settled_share_are_not_kept() -> None:
    lucky = Solver(iterations=20).solve(Valleys([3.0]), Adam(learning_rate=1.0, boxed=False))
    assert lucky.loss == 0.5  # the start itself
    settled = Solver(iterations=20, settled=0.5).solve(Valleys([3.0]), Adam(learning_rate=1.0, boxed=False))
    assert settled.loss == min(settled.history[10:])


def test_a_budget_of_seconds_is_kept() -> None:
    found = Solver(iterations=10**9, restarts=5, seconds=0.2).solve(Valleys([-4.0] * 5), GENTLE)
    assert found.stopped_by == "seconds"
    assert found.candidate is not None


def test_boxed_optimisers_stay_among_valid_inputs_and_others_do_not() -> None:
    boxed = Solver(iterations=300).solve(Valleys([0.9]), Adam(learning_rate=0.1, boxed=True))
    assert boxed.candidate is not None
    assert boxed.candidate.inputs.item() == 2.5
    free = Solver(iterations=300).solve(Valleys([0.9]), GENTLE)
    assert free.candidate is not None
    assert free.candidate.inputs.item() == pytest.approx(3, abs=1e-2)


def test_progress_counts_evaluations_over_all_restarts_and_falls() -> None:
    seen: list[tuple[int, float]] = []
    found = Solver(iterations=30, restarts=2).solve(
        Valleys([5.0, -4.0]), GENTLE, lambda iterations, loss: seen.append((iterations, loss))
    )
    assert [iterations for iterations, _ in seen] == list(range(1, found.iterations + 1))
    losses = [loss for _, loss in seen]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == found.loss

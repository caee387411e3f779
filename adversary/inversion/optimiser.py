"""How to search: each optimiser is a recipe that starts a stepper over a candidate's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsim import seeding

Evaluate = Callable[[], Tensor]
"""Computes the objective at the current tensors, fills their ``grad``, and returns the objective."""

Step = Callable[[Evaluate], None]
"""Takes one step; calls ``Evaluate`` once or more."""


class Optimiser(Protocol):
    """A recipe for a search."""

    @property
    def boxed(self) -> bool:
        """Whether inputs are put back among valid images after each step."""

    def begin(self, variables: list[Tensor], iterations: int) -> Step:
        """Start a search over leaf tensors, which is to take ``iterations`` steps."""


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (Liu, Nocedal 1989) as PyTorch has it.

    Attributes:
        learning_rate: step size along each direction.
        history: pairs kept.
        inner: iterations within one call of PyTorch's ``step``; the history outlives the call.
        line_search: whether each step satisfies the strong Wolfe conditions; DLG's does not search.
        scale: factor on the objective as PyTorch sees it. PyTorch forgets pairs whose curvature is below an
            absolute 1e-10, with which a search for a small objective ends as steepest descent.
    """

    learning_rate: float = 1.0
    history: int = 100
    inner: int = 20
    line_search: bool = False
    scale: float = 1e6
    boxed: bool = False

    def begin(self, variables: list[Tensor], iterations: int) -> Step:  # noqa: ARG002
        search = torch.optim.LBFGS(
            variables,
            lr=self.learning_rate,
            history_size=self.history,
            max_iter=self.inner,
            # The solver decides when to stop; PyTorch's thresholds are absolute and too coarse for small gradients.
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if self.line_search else None,
        )

        def scaled(evaluate: Evaluate) -> Tensor:
            loss = evaluate()
            for variable in variables:
                if variable.grad is not None:
                    variable.grad.mul_(self.scale)
            return loss * self.scale

        def step(evaluate: Evaluate) -> None:
            search.step(lambda: scaled(evaluate))  # type: ignore[no-untyped-call]

        return step


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma, Ba 2015) with a step size that falls at fractions of the search.

    Attributes:
        learning_rate: first step size, in units of the network's inputs.
        decay_at: fractions of all iterations at which the step size falls.
        decay: factor it falls by.
        signed: whether Adam sees only the signs of the gradient.
    """

    learning_rate: float = 0.1
    decay_at: tuple[float, ...] = ()
    decay: float = 0.1
    signed: bool = False
    boxed: bool = True

    def begin(self, variables: list[Tensor], iterations: int) -> Step:
        search = torch.optim.Adam(variables, lr=self.learning_rate)
        milestones = [round(fraction * iterations) for fraction in self.decay_at]
        schedule = torch.optim.lr_scheduler.MultiStepLR(search, milestones, gamma=self.decay)

        def step(evaluate: Evaluate) -> None:
            evaluate()
            if self.signed:
                for variable in variables:
                    if variable.grad is not None:
                        variable.grad.sign_()
            search.step()
            schedule.step()

        return step


@dataclass(frozen=True)
class SignAdam(Adam):
    """Adam on the signs of the gradient, with the step decay of Inverting Gradients.

    Geiping et al., NeurIPS 2020, section 4, and the authors' code: a tenth at 3/8, 5/8 and 7/8.
    """

    decay_at: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    signed: bool = True


@dataclass(frozen=True)
class LangevinAdam:
    """Adam whose step size rises over a warm-up and falls as a cosine, with noise in each step.

    GradInversion (Yin et al., CVPR 2021, arXiv:2104.07586): ``x <- x + rate(t) (Adam's direction + noise xi)`` with
    ``xi ~ N(0, 1)``. The draws are the same for every victim; their starting points differ.

    Attributes:
        learning_rate: largest step size, in units of the network's inputs.
        warm_up: share of the iterations over which the step size rises.
        noise: standard deviation of the noise, in step sizes; 0 for none.
    """

    learning_rate: float = 0.1
    warm_up: float = 0.025
    noise: float = 0.2
    boxed: bool = True

    def begin(self, variables: list[Tensor], iterations: int) -> Step:
        search = torch.optim.Adam(variables, lr=self.learning_rate)
        rising = max(1, round(self.warm_up * iterations))

        def share(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return (1 + math.cos(math.pi * (step - rising) / max(1, iterations - rising))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(search, share)
        draws = seeding.generator(0, "attack", "langevin")

        def step(evaluate: Evaluate) -> None:
            evaluate()
            rate = schedule.get_last_lr()[0]
            search.step()
            if self.noise:
                inputs = variables[0]
                with torch.no_grad():
                    # Drawn on the CPU, so that it is the same on any device.
                    inputs += rate * self.noise * torch.randn(inputs.shape, generator=draws).to(inputs)
            schedule.step()

        return step

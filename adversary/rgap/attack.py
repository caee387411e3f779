"""The attack: a closed form where the network allows one, and a start for an optimisation where not."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from adversary import labels as rules
from adversary.attack import ATTACKS, Needs, Progress, check, failure
from adversary.inversion import (
    Candidate,
    Cosine,
    Euclidean,
    Inversion,
    InversionProblem,
    SignAdam,
    SingleGradient,
    Solver,
    TotalVariation,
)
from adversary.network import Weights, build, mode_of
from adversary.rgap.chain import chain_of
from adversary.rgap.recursion import descend, missing
from fedsim import seeding
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, Reconstruction

EXPLAINED = 1e-6
"""Relative squared residual below which a reconstruction explains the gradient, and needs no refinement."""


@ATTACKS.register("rgap")
def rgap(
    *, refine_iterations: int = 0, total_variation: float = 1e-3, learning_rate: float = 0.05
) -> RecursiveGradientAttack:
    """Solve for a single image layer by layer, in closed form and double precision (R-GAP).

    Zhu, Blaschko, ICLR 2021, arXiv:2010.07733; for any number of classes, as the bias of the last layer
    gives the gradient of the logits. What ``rank_analysis`` finds determined is exact up to rounding, which
    the layers amplify.

    Args:
        refine_iterations: where the closed form does not explain the gradient, steps of an optimisation that
            starts from it; 0 for none.
        total_variation: weight of that optimisation's smoothness prior, on images in [0, 1].
        learning_rate: of that optimisation, smaller than from noise.
    """
    refinement = Inversion(
        labels=rules.idlg,
        simulator=SingleGradient(),
        distance=Cosine(),
        prior=TotalVariation(total_variation),
        optimiser=SignAdam(learning_rate),
        solver=Solver(refine_iterations),
    )
    return RecursiveGradientAttack(refinement if refine_iterations > 0 else None)


def lacking(network: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    """What keeps R-GAP from a network, each as a sentence that names the layer."""
    try:
        return missing(chain_of(network, input_shape))
    except FedsimError as error:
        return [str(error)]


@dataclass(frozen=True)
class RecursiveGradientAttack:
    """R-GAP in float64, whatever precision the observation has.

    Attributes:
        refinement: what goes on where the closed form does not explain the gradient, if anything.
    """

    refinement: Inversion | None = None

    @property
    def needs(self) -> Needs:
        """What the attack asks of a victim."""
        return Needs(max_examples=1, single_step=True, network=lacking)

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
        observation = observations[0]
        network = build(knowledge, mode_of(observation.plan), device)
        draws = seeding.generator(seed, "attack", "labels")
        evidence = rules.Evidence.of(observation, knowledge, network, draws, device)
        if not all(bool(tensor.isfinite().all()) for tensor in evidence.gradient.values()):
            return failure(observation, knowledge, "diverged")
        labels = rules.idlg(evidence)
        gradients = {name: tensor.double() for name, tensor in evidence.gradient.items()}
        _load_in_double(network, evidence.weights)
        found = descend(chain_of(network, knowledge.input_shape), gradients, tolerance(observation))
        if found is None:
            return replace(failure(observation, knowledge, "failed: the gradient is zero"), labels=labels)
        solved = Reconstruction(
            images=knowledge.denormalise(found.inputs).float().cpu(),
            labels=labels,
            loss=_residual(network, found.inputs, labels, gradients),
            stopped_by=found.ending(),
        )
        if self.refinement is not None and (found.deficient or not solved.loss < EXPLAINED):
            problem = self.refinement.problem(observations, knowledge, seed=seed, device=device)
            start = _From(problem, found.inputs.to(torch.float32))
            solution = self.refinement.solver.solve(start, self.refinement.optimiser, progress)
            if solution.candidate is not None:
                solved = Reconstruction(
                    images=knowledge.denormalise(solution.candidate.inputs).float().cpu(),
                    labels=labels,
                    loss=solution.loss,
                    history=solution.history,
                    iterations=solution.iterations,
                    stopped_by=f"{solved.stopped_by}, then {solution.stopped_by}",
                )
        return replace(solved, seconds=time.monotonic() - began)


@dataclass(frozen=True)
class _From:
    """An inversion's problem, with the closed form in place of the first starting point."""

    problem: InversionProblem
    inputs: Tensor

    def start(self, attempt: int) -> Candidate:
        if attempt > 0:
            return self.problem.start(attempt)
        return Candidate(torch.nan_to_num(self.inputs).clone().requires_grad_())

    def objective(self, candidate: Candidate) -> Tensor:
        return self.problem.objective(candidate)

    def project(self, candidate: Candidate) -> None:
        self.problem.project(candidate)


def tolerance(observation: Observation) -> float:
    """Singular values below this share of the largest may be rounding errors of the gradient observed.

    The errors' size relative to the gradient, to the power 2/3. An update that is a difference of two
    models has the errors of the models, relative to the little that they differ by.

    Args:
        observation: of the victim.
    """
    received = [tensor for tensor in observation.received.values() if tensor.is_floating_point()]
    error = max(torch.finfo(tensor.dtype).eps for tensor in received)
    if observation.kind == "model":
        names = [name for name, tensor in observation.received.items() if tensor.is_floating_point()]
        change = nn.utils.parameters_to_vector(observation.update(names)).double().norm()
        weights = nn.utils.parameters_to_vector(received).double().norm()
        error = min(1.0, error * float(weights / change)) if change > 0 else 1.0
    return math.pow(error, 2 / 3)


def _load_in_double(network: nn.Module, weights: Weights) -> None:
    network.double().load_state_dict({**weights.parameters, **weights.buffers})


def _residual(network: nn.Module, inputs: Tensor, labels: Tensor, gradients: Mapping[str, Tensor]) -> float:
    """Relative squared distance of the gradient that the inputs cause from the one observed."""
    loss = functional.cross_entropy(network(inputs), labels.to(inputs.device))
    caused = torch.autograd.grad(loss, list(network.parameters()))
    return float(Euclidean(relative=True)(caused, list(gradients.values())))

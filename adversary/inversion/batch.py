"""Many victims attacked at once, each with weights and an update of its own, by ``torch.func``."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from adversary import labels as rules
from adversary.attack import Attack, check
from adversary.inversion.compiling import Compiled, compiler_problems, pays
from adversary.inversion.distance import Cosine, Euclidean
from adversary.inversion.inversion import Inversion
from adversary.inversion.lanes import WORTH_TRACING, solve
from adversary.inversion.objectives import bound
from adversary.inversion.optimiser import Adam, SignAdam
from adversary.inversion.prior import TotalVariation
from adversary.inversion.problem import InversionProblem
from adversary.inversion.simulators.gradient import SingleGradient
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, Reconstruction


@dataclass(frozen=True)
class Victim:
    """What ``Attack.reconstruct`` is given of one victim.

    Attributes:
        observations: of the victim, in the order of rounds.
        knowledge: what the threat model grants.
        seed: of all randomness in the attack on it.
    """

    observations: Sequence[Observation]
    knowledge: Knowledge
    seed: int


def reconstruct_many(
    attack: Attack, victims: Sequence[Victim], *, device: torch.device | str = "cpu", compiled: Compiled = "auto"
) -> list[Reconstruction]:
    """Attack many victims; those whose networks have the same layout at once, where the attack allows it.

    Their restarts are searched at once too, unless one can make the next one needless. Every victim has its own
    starting points, early stop and best iterate, by the same rules as in ``attack.reconstruct``, whose result this is
    up to rounding. Rounding differs, as the kernels do; with ReLU and signed steps it grows, so that a long search ends
    at another point as good. Who else is in the batch has no influence beyond that. The seconds of a victim are its
    share of its batch's.

    Attacked at once are victims of an ``Inversion`` of a single observation by ``SingleGradient``, ``Cosine`` or
    ``Euclidean``, ``TotalVariation`` or no prior, ``Adam`` or ``SignAdam``, with labels recovered
    beforehand and no budget in seconds, in a task without random numbers; others one after the other.

    Args:
        attack: the attack on all of them.
        victims: in any order; their networks may differ.
        device: where to compute.
        compiled: whether the step of a batch is compiled, where the attack goes on for long enough to be traced;
            by ``auto`` where that pays, see ``compiling.pays``. Needs a compiler, and half a minute or more the first
            time that a layout is met; PyTorch caches the result on disk. Results differ by rounding.

    Returns:
        One reconstruction a victim, in the order of the victims.

    Raises:
        FedsimError: a victim does not meet the attack's needs, or a step is to be compiled and there is no compiler;
            nobody is attacked then.
    """
    for victim in victims:
        check(attack, victim.observations, victim.knowledge)
    found: dict[int, Reconstruction] = {}
    if isinstance(attack, Inversion) and not hindrances(attack):
        batches: dict[Hashable, list[tuple[int, InversionProblem]]] = defaultdict(list)
        for position, victim in enumerate(victims):
            if len(victim.observations) == 1 and not victim.knowledge.task.drawn:
                problem = attack.problem(victim.observations, victim.knowledge, seed=victim.seed, device=device)
                batches[_layout(problem)].append((position, problem))
        compiling = [_is_compiled(attack, [p for _, p in batch], compiled) for batch in batches.values()]
        if any(compiling) and (problems := compiler_problems(device)):
            raise FedsimError(" ".join(problems))
        for batch, so in zip(batches.values(), compiling, strict=True):
            began = time.monotonic()
            solutions = solve(attack, [problem for _, problem in batch], compiled=so)
            seconds = (time.monotonic() - began) / len(batch)
            for (position, problem), solution in zip(batch, solutions, strict=True):
                result = attack.result(problem, solution, victims[position].observations[0])
                found[position] = replace(result, seconds=seconds)
    for position, victim in enumerate(victims):
        if position not in found:
            found[position] = attack.reconstruct(victim.observations, victim.knowledge, seed=victim.seed, device=device)
    return [found[position] for position in range(len(victims))]


def _is_compiled(attack: Inversion, problems: Sequence[InversionProblem], compiled: Compiled) -> bool:
    if compiled != "auto":
        return compiled and attack.solver.iterations >= WORTH_TRACING
    parameters = sum(tensor.numel() for tensor in bound(problems[0]).weights.parameters.values())
    return pays(parameters, len(problems) * attack.solver.iterations * attack.solver.restarts)


def hindrances(attack: Attack) -> list[str]:
    """Which parts of an attack work on one victim at a time only, each as a sentence with a remedy; none if none do."""
    one_by_one = "or attack one by one: leave out at_once and compiled"
    if not isinstance(attack, Inversion):
        return [
            "Attacked at once are the victims of attacks put together as an Inversion, but this is of type "
            f"{type(attack).__name__}. Choose inverting_gradients, {one_by_one}."
        ]
    parts: dict[str, tuple[object, tuple[type, ...]]] = {
        "simulator": (attack.simulator, (SingleGradient,)),
        "distance": (attack.distance, (Cosine, Euclidean)),
        "prior": (attack.prior, (type(None), TotalVariation)),
        "optimiser": (attack.optimiser, (Adam, SignAdam)),
    }
    problems = [
        f"Its {name}, {type(part).__name__}, works on one victim at a time. Choose an attack whose {name} is "
        f"{' or '.join(kind.__name__ for kind in kinds if kind is not type(None))}, {one_by_one}."
        for name, (part, kinds) in parts.items()
        if type(part) not in kinds
    ]
    if attack.labels is rules.optimised:
        problems.append(f"It searches for labels along with the images. Choose another rule for labels, {one_by_one}.")
    if attack.group != 1:
        problems.append(
            f"It searches from {attack.group} starting points together. Choose another attack, {one_by_one}."
        )
    if attack.solver.seconds is not None:
        problems.append(
            f"Its budget of {attack.solver.seconds} seconds is a single victim's. Leave out seconds, {one_by_one}."
        )
    return problems


def _layout(problem: InversionProblem) -> Hashable:
    """What victims attacked at once have in common: everything but the values of tensors."""
    simulation = bound(problem)
    modules = tuple((name, type(m), _settings(m)) for name, m in simulation.network.named_modules())
    tensors = tuple((name, t.shape, t.dtype) for name, t in simulation.network.state_dict().items())
    return modules, tensors, problem.examples, tuple(problem.knowledge.input_shape)


def _settings(module: nn.Module) -> str:
    # Attributes that print no two ways, such as functions, keep victims apart: slower, never wrong.
    return repr(sorted((name, repr(value)) for name, value in vars(module).items() if not name.startswith("_")))

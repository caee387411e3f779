"""Which examples a simulated client uses in which of its local steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation, TrainingPlan

BatchOrder = Literal["given", "shuffled", "pooled", "copies"]


@dataclass(frozen=True)
class Stretch:
    """Local steps that take the same gradient: one, or several in a coarse simulation.

    Attributes:
        batch: positions among the inputs, int64; ``None`` for all of them.
        steps: how many.
    """

    batch: Tensor | None
    steps: int = 1


@dataclass(frozen=True)
class Schedule:
    """The stretches of a client's training, and how many copies of the examples they go through."""

    stretches: tuple[Stretch, ...]
    copies: int = 1


def schedule(how: BatchOrder, observation: Observation, knowledge: Knowledge, *, seed: int = 0) -> Schedule:
    """The client's local steps as far as the adversary knows them.

    Args:
        how: ``given``, as granted; ``shuffled``, a guess that is shuffled anew in each pass, as clients do;
            ``pooled``, all steps of a pass taken together on the full batch; ``copies``, each pass through a copy
            of all examples of its own.
        observation: a model, with its plan.
        knowledge: for the order, where it is granted.
        seed: of the adversary's guesses.

    Raises:
        FedsimError: no plan was sent; or the order is to be ``given``, and is not, or is that of another client.
    """
    plan, examples = plan_of(observation), observation.examples
    if how == "given":
        return _of(granted_order(knowledge, observation), examples)
    per_pass = -(-examples // plan.batches_of(examples))
    steps = plan.steps(examples)
    passes = [min(per_pass, steps - begun) for begun in range(0, steps, per_pass)]
    if how == "pooled":
        return Schedule(tuple(Stretch(None, count) for count in passes))
    draws = seeding.generator(seed, "attack", "batches", observation.round)
    if how == "copies":
        return _through_copies(plan, examples, passes, draws)
    shuffled: list[Tensor] = []
    for count in passes:
        shuffled += torch.split(torch.randperm(examples, generator=draws), plan.batches_of(examples))[:count]
    return _of(shuffled, examples)


def plan_of(observation: Observation) -> TrainingPlan:
    """What the server ordered.

    Raises:
        FedsimError: it sent no plan, so that the client's training cannot be simulated.
    """
    if observation.plan is None:
        raise FedsimError(
            "The observation carries no training plan, without which local steps cannot be simulated. "
            "Send TrainingPlan(...).to_config() as train_config, or choose an attack that needs none."
        )
    return observation.plan


def granted_order(knowledge: Knowledge, observation: Observation) -> tuple[Tensor, ...]:
    """The batch of each local step, as the threat model grants it: positions int64 among the examples.

    Raises:
        FedsimError: it is not granted, or is not that of this observation.
    """
    order, steps = knowledge.batch_order, plan_of(observation).steps(observation.examples)
    if order is None:
        raise FedsimError(
            "The order of batches is to be used, but is not known. Grant 'batch_order' in the attack's knowledge, "
            "or choose a batch_order that is a guess."
        )
    if len(order) != steps:
        raise FedsimError(
            f"Knowledge.batch_order has {len(order)} batches, but the plan orders {steps} local steps. "
            "Give that of this client and round."
        )
    if max(int(batch.max()) for batch in order) >= observation.examples:
        raise FedsimError(
            f"Knowledge.batch_order names positions beyond the {observation.examples} examples of the victim. "
            "Give that of this client and round."
        )
    return order


def _of(batches: Sequence[Tensor], examples: int) -> Schedule:
    # The order within a batch means nothing, and a full batch need not be picked out.
    return Schedule(tuple(Stretch(None if len(batch) == examples else batch) for batch in batches))


def _through_copies(plan: TrainingPlan, examples: int, passes: Sequence[int], draws: torch.Generator) -> Schedule:
    """Each pass cuts its copy alike, as the order within a copy means nothing.

    The cut is shuffled, since labels come sorted and a batch of one class would be a poor guess.
    """
    if len(passes) == 1 and plan.batches_of(examples) >= examples:
        return Schedule((Stretch(None),))
    cut = torch.split(torch.randperm(examples, generator=draws), plan.batches_of(examples))
    stretches = [Stretch(batch + examples * number) for number, count in enumerate(passes) for batch in cut[:count]]
    return Schedule(tuple(stretches), copies=len(passes))

"""What a defence is: it changes the update that leaves a client, or the gradients within its local training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from torch import Tensor, nn

from clients.gradients import StepRule
from fedsim import seeding
from fedsim.arrays import from_record, to_record
from fedsim.protocol import Kind, TrainingPlan
from fedsim.registry import Registry

Update = dict[str, Tensor]
"""By name: what training changed, ``received - sent``, of a model; or a gradient."""


class Memory:
    """What a defence keeps from one round to the next, in the client's Flower context.

    It so belongs to the client and not to a process: engines carry it from worker to worker, and checkpoints hold
    it.

    Args:
        state: of the client's context.
        key: under which this defence keeps its own.
    """

    def __init__(self, state: RecordDict, key: str) -> None:
        self._state = state
        self._arrays, self._numbers = f"{key}-arrays", f"{key}-numbers"

    def arrays(self) -> Update:
        """The tensors kept; nothing at first."""
        record = self._state.get(self._arrays)
        return from_record(record) if isinstance(record, ArrayRecord) else {}

    def keep_arrays(self, arrays: Mapping[str, Tensor]) -> None:
        """Keep tensors in place of those before."""
        self._state[self._arrays] = to_record(arrays)

    def numbers(self) -> dict[str, list[float]]:
        """The lists of numbers kept; nothing at first."""
        record = self._state.get(self._numbers)
        return cast("dict[str, list[float]]", dict(record)) if isinstance(record, MetricRecord) else {}

    def keep_numbers(self, numbers: Mapping[str, list[float]]) -> None:
        """Keep lists of numbers in place of those before."""
        self._state[self._numbers] = MetricRecord({key: list(values) for key, values in numbers.items()})


@dataclass(frozen=True)
class Site:
    """Where and when a defence works.

    Attributes:
        seed: of the experiment.
        client: its number.
        round: from 1.
        position: of the defence in its chain, from 0.
        kind: whether the client returns a ``model`` or a ``gradient``.
        memory: what the defence keeps.
    """

    seed: int
    client: int
    round: int
    position: int
    kind: Kind
    memory: Memory

    def generator(self) -> torch.Generator:
        """Where the defence's random numbers come from: the same here whatever the engine and its workers.

        This is a simulation: who knows the seed of the experiment can take the noise off again.
        """
        return seeding.generator(self.seed, "client", self.client, "round", self.round, "defence", self.position)


class Defence(Protocol):
    """A defence of either sort, made from its parameters.

    Attributes:
        remembers: whether it keeps something from round to round.
    """

    remembers: ClassVar[bool]


@runtime_checkable
class UpdateDefence(Defence, Protocol):
    """Changes the update on its way out.

    Attributes:
        buffers: whether it is also given the network's buffers of floating-point numbers, such as batch-norm
            statistics, as what training changed of them. Buffers of whole numbers no defence is given.
    """

    buffers: ClassVar[bool]

    def defend(self, update: Update, site: Site) -> Update:
        """The update to be sent, under the same names; a tensor that stays as it was is returned itself.

        Args:
            update: not to be written to.
            site: where and when.
        """
        ...


@runtime_checkable
class TrainingDefence(Defence, Protocol):
    """Changes the gradient of each local step."""

    def step(self, site: Site) -> StepRule:
        """How this client computes its gradients in this round."""
        ...

    def report(self, site: Site) -> Mapping[str, float]:
        """What to say of it with the reply, after training."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A defence that does not fit each network and plan."""

    def check(self, model: nn.Module, plan: TrainingPlan) -> None:
        """Find what would fail later.

        Raises:
            FedsimError: it cannot work with them.
        """
        ...


DEFENCES: Registry[Defence] = Registry("defence", "fedsim.defences", imports=True)

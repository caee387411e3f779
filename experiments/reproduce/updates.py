"""Attacks on the model updates of real local training: the victims that reproductions share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from adversary import ATTACKS, Attack
from adversary.attack import Needs
from adversary.inversion import Inversion
from clients.batches import batches
from clients.training import local_steps
from experiments.reproduce.victims import Task, carry_out, data_set
from fedsim import models, seeding
from fedsim.data import DataSet, normalised
from fedsim.protocol import Knowledge, Observation, TrainingPlan


@dataclass(frozen=True)
class UpdateTask(Task):
    """An attack on the update of one client.

    Attributes:
        plan: of the client's local training.
        training: steps of Adam that the network has learned for before.
    """

    plan: TrainingPlan = field(default_factory=TrainingPlan)
    training: int = 0


def attack_update(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Run one task, as ``victims.attack`` does."""
    if not isinstance(task, UpdateTask):
        raise TypeError(f"{task.key()} is not a task about an update")
    torch.set_num_threads(1)
    observation, knowledge, images, labels = observe_update(task, data_set(task.normalise))
    record, truth, found = carry_out(task, raw(task.attack, task.parameters), observation, knowledge, images, labels)
    plan = task.plan
    record |= {
        "epochs": plan.local_epochs,
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "steps": plan.steps(observation.examples),
        "training": task.training,
    }
    return record, truth, found


def raw(name: str, parameters: dict[str, Any]) -> Attack:
    """An attack that takes any update for what it can invert, whatever it asks for otherwise.

    DLG refuses updates of several steps; as a baseline it is let loose on them.
    """
    attack = ATTACKS.create(name, **parameters)
    if isinstance(attack, Inversion) and attack.requires.single_step:
        return replace(attack, requires=Needs(observations=1))
    return attack


def observe_update(task: UpdateTask, data: DataSet) -> tuple[Observation, Knowledge, Tensor, Tensor]:
    """What a client sends after its local training, and the truth: images in [0, 1] and labels."""
    shard = data.test.subset(torch.tensor(task.images))
    make = models.builder(task.model, data.input_shape, data.classes, seed=task.victim, **task.model_parameters)
    network = make()
    if task.training:
        network.load_state_dict(
            _learned(task.model, tuple(task.model_parameters.items()), task.victim, task.training, task.normalise)
        )
    sent = _state(network)
    order = batches(task.plan, len(shard), seed=0, client=task.victim, round=1)
    local_steps(network, shard, (data.mean, data.std), order, task.plan, round=1)
    observation = Observation(1, task.victim, sent, _state(network), "model", len(shard), task.plan)
    knowledge = Knowledge(make, data.input_shape, data.classes, data.mean, data.std)
    return observation, knowledge, shard.images.float() / 255, shard.labels


@functools.lru_cache(maxsize=4)
def _learned(
    model: str, parameters: tuple[tuple[str, Any], ...], seed: int, steps: int, normalise: bool
) -> dict[str, Tensor]:
    """A network's state after ``learn``."""
    data = data_set(normalise)
    network = models.build(model, data.input_shape, data.classes, seed=seed, **dict(parameters))
    learn(network, steps, data, seeding.generator(seed, "reproduce", "updates", "training"))
    return _state(network)


def learn(network: nn.Module, steps: int, data: DataSet, draws: torch.Generator) -> None:
    """Train a network in place: steps of Adam at 1e-3 on batches of 64 training images."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    for _ in range(steps):
        batch = data.train.subset(torch.randint(len(data.train), (64,), generator=draws))
        optimiser.zero_grad()
        inputs = normalised(batch.images, data.mean, data.std)
        loss: Tensor = functional.cross_entropy(network(inputs), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval over victims (10,000 resamples, seeded)."""
    if len(set(values)) < 2:
        return values[0], values[0], values[0]
    draws = np.random.default_rng(0)
    found = stats.bootstrap((np.array(values),), np.median, n_resamples=10_000, method="percentile", rng=draws)
    low, high = found.confidence_interval
    return median(values), float(low), float(high)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

"""The protocol's vocabulary: what the server orders, what it sees, and what an adversary makes of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from flwr.app import ConfigRecord
from torch import Tensor, nn

from fedsim.errors import FedsimError, invalid
from fedsim.tasks import Draws, Task
from fedsim.tasks.classification import Classification

Arrays = Mapping[str, Tensor]
"""Named tensors in the order of the model's ``state_dict``, on the CPU."""

Algorithm = Literal["fedavg", "fedsgd"]
Mode = Literal["train", "eval"]
Precision = Literal["float32", "bf16"]
Kind = Literal["model", "gradient"]
Grant = Literal["labels", "batch_order", "defences", "noise", "steps"]

REPORT_KEY = "report"
"""Where the server's configuration lists what clients shall report beside the loss, such as ``square-loss``."""

SQUARE_LOSS = "square-loss"
"""The mean of the squared loss over the examples of a client's round, at the global weights; sent if asked for."""

ROUND_KEY = "server-round"
"""Where Flower's strategies put the number of the round in the configuration they send."""


@dataclass(frozen=True)
class TrainingPlan:
    """What the server orders a client to do, and therefore knows.

    Attributes:
        algorithm: ``fedavg`` (local steps, the client returns a model) or ``fedsgd`` (the client returns
            one gradient).
        batch_size: examples a step; ``None`` takes the whole shard.
        local_epochs: passes over the shard (``fedavg``); the last, smaller batch of a pass is a step too.
        local_steps: if given, the number of steps, and ``local_epochs`` is ignored; passes repeat as needed.
        learning_rate: step size of the client's SGD in round 1.
        learning_rate_decay: factor on the learning rate from one round to the next.
        momentum: heavy-ball momentum of the client's SGD, which starts anew in each round.
        weight_decay: L2 coefficient, added to the gradient as PyTorch's SGD does.
        mode: mode of the model during local training; ``eval`` freezes batch-norm statistics.
        loss: the ``objective`` of the task, the mean over the batch; ``cross_entropy`` of a classifier.
        precision: ``bf16`` computes the network, forwards and backwards, in bfloat16 where PyTorch's autocast
            deems it safe; weights, gradients and the loss stay in float32.
    """

    algorithm: Algorithm = "fedavg"
    batch_size: int | None = 32
    local_epochs: int = 1
    local_steps: int | None = None
    learning_rate: float = 0.1
    learning_rate_decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    mode: Mode = "train"
    loss: str = "cross_entropy"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise invalid("algorithm", self.algorithm, "not an algorithm", "Choose fedavg or fedsgd")
        for name, least in (("batch_size", 1), ("local_epochs", 1), ("local_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise invalid(name, value, f"must be {least} or more", "Correct it")
        if self.learning_rate < 0 or self.learning_rate_decay <= 0:
            raise invalid("learning_rate", self.learning_rate, "must not be negative", "Correct it")

    def batches_of(self, examples: int) -> int:
        """Examples in one full batch of a client that has ``examples``."""
        return examples if self.batch_size is None else self.batch_size

    def steps(self, examples: int) -> int:
        """Local steps of a client with ``examples`` (tau in the literature); 1 for ``fedsgd``."""
        if self.algorithm == "fedsgd":
            return 1
        if self.local_steps is not None:
            return self.local_steps
        return self.local_epochs * -(-examples // self.batches_of(examples))

    def learning_rate_at(self, round: int) -> float:
        """Step size in a round; the first round is 1."""
        return self.learning_rate * self.learning_rate_decay ** (round - 1)

    def to_config(self) -> ConfigRecord:
        """As a Flower ``ConfigRecord``; ``None`` is left out, as Flower has no such value."""
        return ConfigRecord({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainingPlan:
        """Back from a ``ConfigRecord``; keys that are not the plan's (Flower adds some) are ignored.

        Raises:
            FedsimError: the record does not come from ``to_config``.
        """
        if "algorithm" not in config:
            raise FedsimError(
                "The message carries no training plan. Send TrainingPlan(...).to_config() as train_config."
            )
        names = {f.name for f in fields(cls)}
        absent: dict[str, Any] = {"batch_size": None, "local_steps": None, "precision": "float32"}
        return cls(**(absent | {key: value for key, value in config.items() if key in names}))


@dataclass(frozen=True)
class Observation:
    """One client in one round, as the server sees it.

    Attributes:
        round: number of the round, from 1.
        client: the client's number (its partition), or Flower's node id where it names none.
        sent: the arrays the server sent.
        received: the arrays the client returned.
        kind: whether ``received`` is a trained ``model`` or a ``gradient`` (buffers of the model, such as
            batch-norm statistics, are values in both cases).
        examples: number of examples the client claims to have used.
        plan: what the server ordered; ``None`` in a Flower app that sends no plan.
    """

    round: int
    client: int
    sent: Arrays
    received: Arrays
    kind: Kind
    examples: int
    plan: TrainingPlan | None = None

    def update(self, names: list[str]) -> list[Tensor]:
        """What training changed, as a positive multiple of a gradient, for the parameters named.

        The gradient itself, or ``sent - received`` of a model: with ``eta`` the learning rate, the sum of
        ``eta`` times the gradients of all local steps.
        """
        if self.kind == "gradient":
            return [self.received[name] for name in names]
        return [self.sent[name] - self.received[name] for name in names]


@dataclass(frozen=True)
class DeclaredDefence:
    """A defence that clients are known to use.

    Attributes:
        name: as in the configuration.
        parameters: all of them, defaults included.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Knowledge:
    """What the threat model grants an adversary beyond its observations.

    Attributes:
        model: builds the network; its weights are those observed.
        input_shape: channels, height, width of one image.
        classes: number of classes.
        mean: per-channel mean that clients subtract from images in [0, 1].
        std: per-channel standard deviation that clients divide by.
        labels: the victim's true labels, int64 [N], only where the threat model grants ``labels``; in the order of the
            noise and the steps, where the task draws them.
        batch_order: positions in the shard of each local step's batch, only where ``batch_order`` is granted.
        defences: the clients' chain of defences in its order, only where ``defences`` is granted.
        task: what clients train, which the server orders and so knows.
        noise: that the task drew for the batch of the victim's first step, in the batch's order, [N, C, H, W], only
            where ``noise`` is granted.
        steps: of the schedule, likewise, int64 [N], only where ``steps`` is granted.
    """

    model: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    labels: Tensor | None = None
    batch_order: tuple[Tensor, ...] | None = None
    defences: tuple[DeclaredDefence, ...] | None = None
    task: Task = field(default_factory=Classification)
    noise: Tensor | None = None
    steps: Tensor | None = None

    def grants(self) -> frozenset[Grant]:
        """What is granted beyond the protocol's public parts."""
        given: dict[Grant, object] = {
            "labels": self.labels,
            "batch_order": self.batch_order,
            "defences": self.defences,
            "noise": self.noise,
            "steps": self.steps,
        }
        return frozenset(name for name, value in given.items() if value is not None)

    def draws(self) -> Draws:
        """What is granted of the random numbers of the victim's batch."""
        return Draws(self.noise, self.steps)

    def normalise(self, images: Tensor) -> Tensor:
        """From [0, 1] to what the network is fed, [N, C, H, W]."""
        return (images - self._channels(self.mean, images)) / self._channels(self.std, images)

    def denormalise(self, inputs: Tensor) -> Tensor:
        """From what the network is fed to [0, 1], clamped, [N, C, H, W]."""
        return (inputs * self._channels(self.std, inputs) + self._channels(self.mean, inputs)).clamp(0, 1)

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class Reconstruction:
    """What an attack made of its observations.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1], on the CPU.
        labels: int64 [N].
        loss: value of the attack's own objective at ``images``; NaN if the attack failed.
        history: the objective over iterations, of the restart that was kept.
        iterations: over all restarts.
        seconds: wall-clock time.
        stopped_by: ``iterations``, ``seconds``, ``tolerance``, ``patience``, or ``failed: ...`` with the reason.
    """

    images: Tensor
    labels: Tensor
    loss: float
    history: tuple[float, ...] = field(default=(), repr=False)
    iterations: int = 0
    seconds: float = 0.0
    stopped_by: str = "iterations"


@dataclass(frozen=True)
class Profile:
    """What a client says of itself when asked.

    Attributes:
        client: its number.
        examples: size of its shard.
        label_counts: examples of each class, or ``None`` if it does not say.
        duration: seconds that it expects to take for a round, or ``None`` if it does not say.
    """

    client: int
    examples: int
    label_counts: tuple[int, ...] | None = None
    duration: float | None = None

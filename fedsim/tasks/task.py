"""What a task is: all that local training, evaluation and sampling ask of what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from fedsim.models import InputShape

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Per-channel mean and standard deviation, of images in [0, 1]."""


class Occasion(NamedTuple):
    """When a batch is used, by which its random numbers are found; by default an evaluation, alike in every run.

    Attributes:
        seed: of the experiment.
        client: who uses it; ``None`` in an evaluation.
        round: in which; ``None`` in an evaluation.
        step: how many batches came before it, in the round or the evaluation.
    """

    seed: int = 0
    client: int | None = None
    round: int | None = None
    step: int = 0

    def at(self, step: int) -> Occasion:
        """The same, at another step."""
        return Occasion(self.seed, self.client, self.round, step)


class Draws(NamedTuple):
    """The random numbers that a task poses a batch by, or what is known of them.

    Attributes:
        noise: float [B, C, H, W].
        steps: of the schedule, int64 [B].
    """

    noise: Tensor | None = None
    steps: Tensor | None = None


@runtime_checkable
class Task(Protocol):
    """What clients train. Local training computes ``loss(network(inputs), targets)`` of what ``pose`` gives.

    Networks take one tensor and targets are one tensor, whose first dimension is the batch: so defences that work
    inside training can take a batch apart, whatever the task.

    Attributes:
        objective: what the loss is called in a ``TrainingPlan``, by which attacks know what they invert.
        metrics: what ``total`` can measure; ``loss`` is one of them.
        drawn: which of the ``Draws`` a batch is posed by.
    """

    objective: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    drawn: ClassVar[frozenset[str]]

    @property
    def labelled(self) -> bool:
        """Whether the loss depends on labels."""

    @property
    def conditional(self) -> bool:
        """Whether it does so because networks are told them, rather than by what they should answer."""

    def build(
        self, name: str, input_shape: InputShape, classes: int, parameters: Mapping[str, Any], *, seed: int
    ) -> nn.Module:
        """A network in evaluation mode whose weights depend on the seed and the name alone.

        Args:
            name: of the network.
            input_shape: channels, height, width.
            classes: of the data.
            parameters: of the network.
            seed: of the experiment.

        Raises:
            FedsimError: unknown name or parameter, or the network cannot be built for this input.
        """

    def check(self, network: nn.Module, name: str, input_shape: InputShape, classes: int) -> None:
        """Find what would fail at the first batch.

        Raises:
            FedsimError: the network cannot take such images, or its answer has another shape than the task needs.
        """

    def normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
        """How images are fed to the network, given the statistics of the data."""

    def pose(self, inputs: Tensor, labels: Tensor, occasion: Occasion) -> tuple[Tensor, Tensor]:
        """What the network is fed and what it should answer.

        Args:
            inputs: normalised images, [B, C, H, W].
            labels: int64 [B].
            occasion: for random numbers, if there are any.
        """

    def draws(self, occasion: Occasion, shape: tuple[int, ...]) -> Draws:
        """The random numbers of a batch of images [B, C, H, W], on the CPU; what ``drawn`` leaves out is ``None``."""

    def posed(self, inputs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """As ``pose``, by these random numbers; differentiable by inputs and noise.

        Raises:
            FedsimError: a random number that the task needs is missing.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example, [B]."""

    def total(self, metric: str, outputs: Tensor, targets: Tensor) -> Tensor:
        """A metric added up over a batch, a scalar."""

    def samples(
        self, network: nn.Module, input_shape: InputShape, *, seed: int, count: int | None = None
    ) -> Tensor | None:
        """Images that the network draws, in [0, 1], float32 [N, C, H, W]; ``None`` where it draws none.

        Args:
            network: that ``build`` has made.
            input_shape: channels, height, width.
            seed: of what they are drawn from.
            count: how many, N; by default as many as the task shows.
        """


@runtime_checkable
class Generative(Protocol):
    """A task whose networks make images of noise."""

    def generated(
        self, answer: Callable[[Tensor], Tensor], latents: Tensor, count: int, labels: Tensor | None = None
    ) -> Tensor:
        """Images [N, C, H, W] as the network is fed, of latents of their shape; differentiable by what they come from.

        Args:
            answer: of the network, to one tensor, as the task poses it.
            latents: standard normal numbers.
            count: calls of the network.
            labels: of the images, int64 [N], where networks are told them.

        Raises:
            FedsimError: the task cannot make them in so many calls, or networks are told labels and there are none.
        """

"""Classification: the class of an image, by cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim import models
from fedsim.errors import FedsimError
from fedsim.models import InputShape
from fedsim.tasks import TASKS
from fedsim.tasks.task import Draws, Normalisation, Occasion


@TASKS.register("classification")
@dataclass(frozen=True)
class Classification:
    """Say which class an image is of; judged by cross-entropy and accuracy. Networks are those of ``MODELS``."""

    objective: ClassVar[str] = "cross_entropy"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    labelled: ClassVar[bool] = True
    conditional: ClassVar[bool] = False
    drawn: ClassVar[frozenset[str]] = frozenset()

    def build(
        self, name: str, input_shape: InputShape, classes: int, parameters: Mapping[str, Any], *, seed: int
    ) -> nn.Module:
        return models.build(name, input_shape, classes, seed=seed, **parameters)

    def check(self, network: nn.Module, name: str, input_shape: InputShape, classes: int) -> None:
        shape = [2, *input_shape]
        try:
            with torch.no_grad():
                logits = network(torch.zeros(shape))
        except (RuntimeError, ValueError) as error:
            raise FedsimError(
                f"model {name!r} cannot take images of shape {shape}: {error}. Choose another model."
            ) from error
        if tuple(logits.shape) != (2, classes):
            raise FedsimError(
                f"model {name!r} gives {list(logits.shape)} for 2 images of {classes} classes. "
                f"It must give [2, {classes}]."
            )

    def normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
        return mean, std

    def pose(self, inputs: Tensor, labels: Tensor, occasion: Occasion) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return inputs, labels

    def draws(self, occasion: Occasion, shape: tuple[int, ...]) -> Draws:  # noqa: ARG002
        return Draws()

    def posed(self, inputs: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return inputs, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")

    def total(self, metric: str, outputs: Tensor, targets: Tensor) -> Tensor:
        if metric == "accuracy":
            return (outputs.argmax(1) == targets).sum()
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def samples(
        self,
        network: nn.Module,  # noqa: ARG002
        input_shape: InputShape,  # noqa: ARG002
        *,
        seed: int,  # noqa: ARG002
        count: int | None = None,  # noqa: ARG002
    ) -> Tensor | None:
        return None

"""What a label rule may look at: one observation, the adversary's knowledge, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adversary.network import Weights, gradients_behind, place
from fedsim.errors import FedsimError
from fedsim.protocol import Knowledge, Observation

LabelRule = Callable[["Evidence"], Tensor]
"""Maps evidence to labels, int64 [N], in ascending order: an update says nothing of the order of its samples."""


@dataclass(frozen=True)
class Evidence:
    """What a label rule may look at.

    Attributes:
        observation: of the victim.
        knowledge: of the adversary.
        network: in the client's mode.
        weights: those sent, on the device.
        gradient: the update as a mean gradient, by name; its positive scale is unknown where no plan was sent.
        generator: for rules that draw.
    """

    observation: Observation
    knowledge: Knowledge
    network: nn.Module
    weights: Weights
    gradient: Mapping[str, Tensor]
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        observation: Observation,
        knowledge: Knowledge,
        network: nn.Module,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Evidence:
        """Evidence in one observation."""
        weights = place(network, observation.sent, device)
        gradient = dict(zip(weights.names(), gradients_behind(observation, weights), strict=True))
        return cls(observation, knowledge, network, weights, gradient, generator)

    @property
    def examples(self) -> int:
        """Labels to recover."""
        return self.observation.examples

    @property
    def scaled(self) -> bool:
        """Whether the gradient's scale is known, not only its direction."""
        return self.observation.kind == "gradient" or self.observation.plan is not None

    @property
    def steps(self) -> int:
        """Local steps behind the update; 1 where unknown."""
        plan = self.observation.plan
        return 1 if plan is None or self.observation.kind == "gradient" else plan.steps(self.examples)

    def last_layer(self) -> tuple[str, nn.Linear]:
        """Name and module of the last linear layer, which gives the logits.

        Raises:
            FedsimError: the network has no linear layer with one output a class.
        """
        found = [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == self.knowledge.classes
        ]
        if not found:
            raise FedsimError(
                f"The network has no linear layer with {self.knowledge.classes} outputs, from which labels are read. "
                "Choose labels = 'optimised', or grant the labels and choose labels = 'given'."
            )
        return found[-1]

    def weight_gradient(self) -> Tensor:
        """Of the last layer, [classes, features]."""
        return self.gradient[self._qualified("weight")]

    def bias_gradient(self) -> Tensor | None:
        """Of the last layer, [classes]; ``None`` if it has no bias."""
        return self.gradient.get(self._qualified("bias"))

    def bias_gradient_or_refuse(self, rule: str) -> Tensor:
        """Of the last layer, [classes].

        Raises:
            FedsimError: it has no bias.
        """
        bias = self.bias_gradient()
        if bias is None:
            raise FedsimError(
                f"Label rule {rule!r} reads the bias of the last layer, which this network lacks. "
                "Choose labels = 'counts'."
            )
        return bias

    def class_signal(self) -> Tensor:
        """One number a class, the more negative the more of its samples: bias gradient, else row sums of W's.

        Row sums need features that are not negative (iDLG).
        """
        bias = self.bias_gradient()
        return self.weight_gradient().sum(dim=1) if bias is None else bias

    def last_weights(self, along: float = 0.0) -> tuple[Tensor, Tensor]:
        """Weight [classes, features] and bias [classes] of the last layer, in float64 on the CPU; a bias of 0 if none.

        Args:
            along: where between the weights sent (0) and those received (1), for a model's update.
        """
        name = self._qualified("weight")
        names = [name, *([self._qualified("bias")] if self._qualified("bias") in self.weights.parameters else [])]
        found = [self.weights.parameters[name].detach().cpu().double() for name in names]
        if along:
            update = self.observation.update(names)
            found = [sent - along * change.cpu().double() for sent, change in zip(found, update, strict=True)]
        weight, *bias = found
        return weight, bias[0] if bias else torch.zeros(len(weight), dtype=torch.float64)

    def _qualified(self, tensor: str) -> str:
        name, _ = self.last_layer()
        return f"{name}.{tensor}" if name else tensor

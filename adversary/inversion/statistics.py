"""Agreement with batch-norm statistics: what features of the victim's batch the server can know of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adversary.inversion.prior import Prior
from adversary.network import Weights, logits, place
from fedsim.protocol import Knowledge, Observation

Moments = tuple[Tensor, Tensor]
"""Mean and variance (with Bessel's correction, as running statistics have it) of each channel."""


@dataclass(frozen=True)
class BatchStatistics:
    """``weight sum_l (|mean_l(x) - m_l| + |var_l(x) - v_l|)`` over batch-norm layers l.

    DeepInversion's prior in GradInversion (Yin et al., CVPR 2021, arXiv:2104.07586), which takes the exact statistics
    of the private batch for granted. What a server really sees depends on the client:

    * ``batch``: a client in train mode moves the running statistics by ``r' = (1 - a) r + a s``, and returns them; so
      ``s = (r' - (1 - a) r) / a`` is that of its batch, exactly if it took one step. For several steps the same with
      ``(1 - a)^steps`` gives a mean of the steps' statistics, the latest weighing most. Where nothing moved, or was
      not returned, as ``running``;
    * ``running``: those sent, which are of everybody's data.

    0 for a network without batch norm.

    Attributes:
        weight: of the penalty.
        known: which statistics are taken for the batch's.
    """

    weight: float
    known: Literal["batch", "running"] = "batch"

    def bind(
        self, network: nn.Module, observation: Observation, knowledge: Knowledge, device: torch.device | str
    ) -> Prior:
        weights = place(network, observation.sent, device)
        targets = {name: self._moments(name, layer, observation, device) for name, layer in _layers(network).items()}
        return BoundStatistics(self.weight, network, weights, targets, knowledge)

    def _moments(self, name: str, layer: _Norm, observation: Observation, device: torch.device | str) -> Moments:
        means, variances = (
            self._of_batch(f"{name}.{which}".lstrip("."), layer, observation).to(device)
            for which in ("running_mean", "running_var")
        )
        return means, variances

    def _of_batch(self, name: str, layer: _Norm, observation: Observation) -> Tensor:
        before = observation.sent[name].float()
        after = observation.received.get(name, before).float()
        if self.known == "running" or layer.momentum is None or torch.equal(after, before):
            return before
        steps = 1 if observation.plan is None else observation.plan.steps(observation.examples)
        kept = (1 - layer.momentum) ** steps
        return (after - kept * before) / (1 - kept)


@dataclass(frozen=True)
class BoundStatistics:
    """``BatchStatistics`` of one observation.

    Attributes:
        weight: of the penalty.
        network: in the client's mode.
        weights: those sent.
        targets: the moments of each batch-norm layer by its name.
        knowledge: for the normalisation.
    """

    weight: float
    network: nn.Module
    weights: Weights
    targets: dict[str, Moments]
    knowledge: Knowledge

    def __call__(self, images: Tensor) -> Tensor:
        if not self.targets:
            return images.new_zeros(())
        # Not Knowledge.normalise alone, as copies of the images come with a dimension of their own.
        found = moments(self.network, self.weights, self.knowledge.normalise(images.flatten(0, -4)))
        gaps = [
            torch.linalg.vector_norm(value - target)
            for name, pair in self.targets.items()
            for value, target in zip(found[name], pair, strict=True)
        ]
        return self.weight * torch.stack(gaps).sum()


def moments(network: nn.Module, weights: Weights, inputs: Tensor) -> dict[str, Moments]:
    """The moments of what enters each batch-norm layer, over images and places, differentiable in the inputs.

    Args:
        network: in the client's mode; neither it nor the weights are changed.
        weights: of the network.
        inputs: [N, C, H, W].
    """
    found: dict[str, Moments] = {}

    def measure(name: str, features: Tensor) -> None:
        over = [axis for axis in range(features.ndim) if axis != 1]
        number = features.numel() // features.shape[1]
        found[name] = features.mean(dim=over), features.var(dim=over, correction=min(1, number - 1))

    hooks = [
        layer.register_forward_pre_hook(lambda _layer, args, name=name: measure(name, args[0]))
        for name, layer in _layers(network).items()
    ]
    try:
        logits(network, weights, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


_Norm = nn.modules.batchnorm._BatchNorm


def _layers(network: nn.Module) -> dict[str, Any]:
    """Batch-norm layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _Norm) and module.track_running_stats
    }

"""What the network answers to noise, in place of the victim's samples, which the adversary lacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adversary.labels.evidence import Evidence
from adversary.labels.path import path_positions
from adversary.network import Weights, logits

_DUMMY_IMAGES = 64


@dataclass(frozen=True)
class NoiseOutputs:
    """Of N(0, 1) inputs, clamped to valid images, at points of the path from the weights sent to those received.

    Attributes:
        probabilities: softmax outputs, [points, images, classes].
        feature_sums: sums of the last layer's inputs, [points, images].
    """

    probabilities: Tensor
    feature_sums: Tensor

    def probability(self) -> Tensor:
        """Mean softmax output, [classes]."""
        return self.probabilities.mean(dim=1).mean(dim=0)

    def feature_sum(self) -> Tensor:
        """Mean sum of the last layer's inputs, a scalar (O in Dimitrov et al.)."""
        return self.feature_sums.mean(dim=1).mean()


def outputs_on_noise(evidence: Evidence) -> NoiseOutputs:
    """Outputs on noise, on the CPU."""
    noise = torch.randn(_DUMMY_IMAGES, *evidence.knowledge.input_shape, generator=evidence.generator)
    inputs = evidence.knowledge.normalise(evidence.knowledge.denormalise(noise))  # among valid images
    inputs = inputs.to(evidence.weight_gradient().device)
    sums: list[Tensor] = []
    _, layer = evidence.last_layer()
    hook = layer.register_forward_pre_hook(lambda _, features: sums.append(features[0].flatten(1).sum(dim=1)))
    try:
        with torch.no_grad():
            probabilities = [
                functional.softmax(logits(evidence.network, weights, inputs), dim=1)
                for weights in weights_along_the_path(evidence)
            ]
    finally:
        hook.remove()
    return NoiseOutputs(torch.stack(probabilities).cpu(), torch.stack(sums).cpu())


def weights_along_the_path(evidence: Evidence) -> list[Weights]:
    """Weights where the steps of the update began, as if they lay evenly on a line; a few stand for many steps."""
    positions = path_positions(evidence)
    if positions == [0.0]:
        return [evidence.weights]
    update = evidence.observation.update(evidence.weights.names())
    return [
        Weights(
            {
                name: sent - change.to(sent.device) * along
                for (name, sent), change in zip(evidence.weights.parameters.items(), update, strict=True)
            },
            evidence.weights.buffers,
        )
        for along in positions
    ]

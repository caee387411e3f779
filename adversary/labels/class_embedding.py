"""Labels that a diffusion network is told, from the gradient of what it embeds them by."""

from __future__ import annotations

from torch import Tensor

from adversary.diffusion.classes import read_classes
from adversary.labels.evidence import Evidence, LabelRule
from adversary.labels.given import given
from fedsim.protocol import Knowledge


def told(knowledge: Knowledge) -> LabelRule:
    """How an attack knows the labels that a network is told: as granted, or else by ``class_embedding``."""
    return class_embedding if knowledge.labels is None else given


def class_embedding(evidence: Evidence) -> Tensor:
    """The classes whose rows of the class embedding have a gradient.

    Unlike other rules it gives a batch's labels in the order of its steps, where these are granted; else in ascending
    order. See ``adversary.diffusion.classes``.
    """
    found = read_classes(
        evidence.network,
        evidence.weights.parameters,
        evidence.gradient,
        evidence.examples,
        evidence.knowledge.steps,
    )
    return found.cpu()

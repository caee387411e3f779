"""Which examples a client uses in which step: a function of the seed, so that anyone may ask again."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.errors import invalid
from fedsim.protocol import TrainingPlan


def batches(plan: TrainingPlan, examples: int, *, seed: int, client: int, round: int) -> list[Tensor]:
    """Positions in the client's shard, int64, of the batch of each local step.

    Each pass shuffles the shard anew and cuts it into batches; the last one of a pass may be smaller.
    ``fedsgd`` uses the first batch of the first pass.

    Raises:
        FedsimError: the batch is larger than the shard.
    """
    size = plan.batches_of(examples)
    if size > examples:
        raise invalid(
            "training.batch_size",
            size,
            f"client {client} has only {examples} examples",
            f'Use at most {examples}, or "full", or fewer clients, or a partition with a larger smallest shard',
        )
    generator = seeding.generator(seed, "client", client, "round", round, "batches")
    found: list[Tensor] = []
    steps = plan.steps(examples)
    while len(found) < steps:
        found += torch.split(torch.randperm(examples, generator=generator), size)
    return found[:steps]

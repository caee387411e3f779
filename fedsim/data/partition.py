"""How the training images are dealt out to clients: partitions by name, most of them flwr-datasets' own.

Every partition gives one ascending int64 index tensor a client; they depend on the labels, the parameters and
the seed alone, and are disjoint but for ``overlapping``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim import seeding
from fedsim.data.shards import Dealt, Drawn, Shards
from fedsim.errors import FedsimError, invalid
from fedsim.registry import Registry

PARTITIONS: Registry[Sequence[Tensor] | Shards] = Registry("partition", "fedsim.partitions", imports=True)
"""Functions of ``(labels, clients, classes, seed, **parameters)``."""


def partition(labels: Tensor, name: str, clients: int, *, classes: int, seed: int, **parameters: Any) -> Shards:
    """Deal examples out to clients.

    Args:
        labels: int64 [N].
        name: a registered name, or ``module:callable``.
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        parameters: of the partition.

    Returns:
        For each client the ascending indices of its examples; some partitions leave examples over.

    Raises:
        FedsimError: more clients than examples, parameters that cannot be met, or a client left without any.
    """
    if clients < 1:
        raise invalid("clients", clients, "must be 1 or more", "Correct it")
    if clients > len(labels) and name != "overlapping":
        raise invalid(
            "clients",
            clients,
            f"there are only {len(labels)} images",
            'Take fewer clients, more images, or the partition "overlapping", in which clients share images',
        )
    shards = PARTITIONS.create(name, labels, clients, classes, seed, **parameters)
    return shards if isinstance(shards, Drawn) else _checked(shards, name, clients, len(labels))


@PARTITIONS.register("iid")
def iid(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:  # noqa: ARG001  (one signature for all)
    """Independent and identically distributed: all examples shuffled and dealt out, sizes differing by at most 1."""
    order = shuffled(len(labels), seed)
    sizes = torch.full((clients,), len(labels) // clients)
    sizes[: len(labels) % clients] += 1
    owner = torch.empty(len(labels), dtype=torch.int64)
    owner[order] = torch.repeat_interleave(torch.arange(clients), sizes)
    # A stable sort by owner leaves the indices of each client ascending.
    return list(torch.split(owner.argsort(stable=True), sizes.tolist()))


@PARTITIONS.register("overlapping")
def overlapping(labels: Tensor, clients: int, classes: int, seed: int, *, examples: int) -> Shards:  # noqa: ARG001
    """IID, each client drawing its examples from all of them, so that clients share images.

    There may so be more clients than images, and nothing is held for a client before it is selected.

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        examples: of each client.
    """
    if not 1 <= examples <= len(labels):
        raise invalid("examples", examples, f"must be 1 to {len(labels)}, the number of images", "Correct it")
    return Drawn(len(labels), examples, clients, seed)


def describe(shards: Shards, labels: Tensor, classes: Sequence[str], *, limit: int = 20) -> str:
    """Sizes and label histograms of a partition as text, a line a client, of the first ``limit`` clients.

    Args:
        shards: what ``partition`` gave.
        labels: int64 [N], those that were dealt out.
        classes: a name for each class.
        limit: clients shown.
    """
    shown = [shards[client] for client in range(min(limit, len(shards)))]
    counts = [torch.bincount(labels[shard], minlength=len(classes)).tolist() for shard in shown]
    amounts = shards.sizes
    dealt = f"{amounts.sum()} of {len(labels)} images" if shards.disjoint else f"which share {len(labels)} images"
    width = max(6, *(len(str(count)) + 1 for row in counts for count in row))
    lines = [
        f"{len(shards)} clients, {dealt}; a client has {amounts.min()} to {amounts.max()}, "
        f"{amounts.mean():.1f} on average",
        "classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(classes)),
        "client  images" + "".join(f"{number:>{width}}" for number in range(len(classes))),
    ]
    lines += [
        f"{client:>6}  {sum(row):>6}" + "".join(f"{count or '.':>{width}}" for count in row)
        for client, row in enumerate(counts)
    ]
    if len(shards) > limit:
        lines.append(f"   ...  and {len(shards) - limit} more")
    return "\n".join(lines)


def shuffled(examples: int, seed: int) -> Tensor:
    """A permutation of range(examples), int64, that the seed decides."""
    return torch.randperm(examples, generator=seeding.generator(seed, "partition", "order"))


def _checked(shards: Sequence[Tensor] | Shards, name: str, clients: int, examples: int) -> Shards:
    """Refuse what is no partition; a third party's function may give anything."""
    if len(shards) != clients:
        raise FedsimError(f"partition {name!r} gave {len(shards)} shards for {clients} clients. Correct the function.")
    dealt = Dealt(list(shards))
    empty = np.flatnonzero(dealt.sizes == 0)
    if len(empty):
        raise FedsimError(
            f"partition {name!r} leaves {len(empty)} of {clients} clients without an example "
            f"(the first is client {empty[0]}). Take fewer clients, more images or a less skewed partition."
        )
    every = dealt.every
    if every.dtype != torch.int64 or int(every.min()) < 0 or int(every.max()) >= examples:
        raise FedsimError(
            f"partition {name!r} gave indices that are not int64 in [0, {examples}). Correct the function."
        )
    if len(torch.unique(every)) != len(every):
        raise FedsimError(f"partition {name!r} gave an example to two clients. Correct the function.")
    return dealt


from fedsim.data import flower_partitions, mavericks  # noqa: E402, F401  (they register themselves)

"""Partitions with Mavericks: clients that own classes, alone or together, and so have more data than the others.

Huang, Hong, Liu, Chen, Roos: Maverick Matters, PAKDD 2023, arXiv:2106.10734. The layouts of that study, on ten classes
and 50 clients: ``reduce_1_plus`` is ``mavericks`` with ``owned = [1]``, ``reduce_1_only`` has ``share_of_rest = 0``
too; ``reduce_3_plus`` is ``mavericks = 3``; ``reduce_3_plusM`` is ``mavericks = 3, owned = [1], shared = true``;
``bias`` is ``owned = [], share_of_rest = 10``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import seeding
from fedsim.data.partition import PARTITIONS
from fedsim.errors import invalid


@PARTITIONS.register("mavericks")
def mavericks(
    labels: Tensor,
    clients: int,
    classes: int,
    seed: int,
    *,
    mavericks: int = 1,
    owned: list[int] | None = None,
    shared: bool = False,
    ownership: float = 1.0,
    share_of_rest: float = 1.0,
) -> list[Tensor]:
    """The last clients own a class each, or some classes together; all else is IID.

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        mavericks: how many clients are Mavericks: ``clients - 1`` is the first, ``clients - 2`` the second, ...
        owned: the classes they own. By default class 0 if they share, else the classes 0, 1, ..., one for each.
        shared: whether all of them own all of ``owned`` together, in equal parts. Otherwise the classes are dealt
            out to them in turn, so that each class has one owner.
        ownership: share of an owned class that is with its owners; the others have the rest of it.
        share_of_rest: what a Maverick has of a class that it does not own, as a multiple of what a client that is
            no Maverick has of it: 0 for nothing, 1 for as much, more for more.
    """
    if not 1 <= mavericks <= clients:
        raise invalid("mavericks", mavericks, f"must be 1 to {clients}, the number of clients", "Correct it")
    who = [clients - 1 - number for number in range(mavericks)]
    if owned is None:
        owned = [0] if shared else list(range(mavericks))
    if shared:
        holdings = {client: list(owned) for client in who}
    else:
        holdings = {client: list(owned[number::mavericks]) for number, client in enumerate(who)}
        if owned and len(owned) < mavericks:
            raise invalid(
                "owned", owned, f"has fewer classes than there are mavericks ({mavericks})", "Name more, or share them"
            )
    return owners(labels, clients, classes, seed, owners=holdings, ownership=ownership, share_of_rest=share_of_rest)


@PARTITIONS.register("owners")
def owners(
    labels: Tensor,
    clients: int,
    classes: int,
    seed: int,
    *,
    owners: dict[int, list[int]],
    parts: dict[int, list[float]] | None = None,
    ownership: float = 1.0,
    share_of_rest: float = 1.0,
) -> list[Tensor]:
    """Mavericks one by one: which client owns which classes, in ``[data.partition.owners]``.

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        owners: the classes of each Maverick, such as ``{49 = [1], 48 = [2], 47 = [2]}``: class 1 has one owner, class
            2 has two. A Maverick without classes differs in ``share_of_rest`` alone.
        parts: for a class with several owners the part of each, in the order of ``owners``; equal ones by default.
        ownership: share of an owned class that is with its owners; the others have the rest of it.
        share_of_rest: what a Maverick has of a class that it does not own, as a multiple of what a client that is
            no Maverick has of it.
    """
    _check(owners, parts or {}, clients=clients, classes=classes, ownership=ownership, share_of_rest=share_of_rest)
    base = np.ones(clients)
    base[list(owners)] = share_of_rest
    dealt: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in range(classes):
        weights = _weights(label, base, owners, parts or {}, ownership)
        members = (labels == label).nonzero()[:, 0]
        if not len(members):
            continue
        if weights.sum() == 0:
            raise invalid("share_of_rest", share_of_rest, f"leaves nobody to have class {label}", "Raise it")
        draws = seeding.numpy_generator(seed, "partition", "owners", label)
        order = torch.from_numpy(draws.permutation(len(members)))
        sizes = apportioned(len(members), weights, draws.permutation(clients))
        for client, part in enumerate(torch.split(members[order], sizes.tolist())):
            dealt[client].append(part)
    return [torch.cat(parts_of).sort().values if parts_of else torch.empty(0, dtype=torch.int64) for parts_of in dealt]


def apportioned(total: int, weights: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers in proportion to weights, by the largest remainder (Hamilton's method).

    Args:
        total: what they sum to.
        weights: not negative and not all 0, float64 [n].
        order: who comes first among equal remainders, a permutation of range(n).

    >>> apportioned(10, np.array([1.0, 1.0, 1.0]), np.array([2, 0, 1])).tolist()
    [3, 3, 4]
    """
    exact = total * weights / weights.sum()
    sizes: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    rank = np.empty(len(weights), dtype=np.int64)
    rank[order] = np.arange(len(weights))
    remainder = np.round(exact - sizes, 9)
    first = np.lexsort((rank, -remainder))[: total - int(sizes.sum())]
    sizes[first] += 1
    return sizes


def ownership_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each class that is with each client, [clients, classes]; 0 for a class without examples.

    Args:
        counts: examples, int64 [clients, classes].
    """
    total = counts.sum(axis=0)
    shares: NDArray[np.float64] = counts / np.maximum(total, 1)
    return shares


def _weights(
    label: int,
    base: NDArray[np.float64],
    owners: Mapping[int, Sequence[int]],
    parts: Mapping[int, Sequence[float]],
    ownership: float,
) -> NDArray[np.float64]:
    """In what proportion clients have a class."""
    holders = [client for client, owned in owners.items() if label in owned]
    if not holders:
        return base
    weights = np.zeros(len(base))
    others = np.setdiff1d(np.arange(len(base)), holders)
    if ownership < 1 and base[others].sum() > 0:
        weights[others] = (1 - ownership) * base[others] / base[others].sum()
    of_each = np.asarray(parts.get(label, [1.0] * len(holders)))
    weights[holders] = (ownership if weights.any() else 1.0) * of_each / of_each.sum()
    return weights


def _check(
    owners: Mapping[int, Sequence[int]],
    parts: Mapping[int, Sequence[float]],
    *,
    clients: int,
    classes: int,
    ownership: float,
    share_of_rest: float,
) -> None:
    strangers = [client for client in owners if not 0 <= client < clients]
    if strangers:
        raise invalid("owners", strangers[0], f"is no client of 0 to {clients - 1}", "Correct it")
    unknown = [label for label in chain(parts, *owners.values()) if not 0 <= label < classes]
    if unknown:
        raise invalid("owned classes", unknown[0], f"is no class of 0 to {classes - 1}", "Correct it")
    if any(len(set(owned)) < len(owned) for owned in owners.values()):
        raise invalid("owners", dict(owners), "names a class twice for one client", "Name it once")
    if not 0 < ownership <= 1:
        raise invalid("ownership", ownership, "must be above 0 and at most 1", "Correct it")
    if share_of_rest < 0:
        raise invalid("share_of_rest", share_of_rest, "must not be negative", "Correct it")
    for label, sizes in parts.items():
        holders = sum(label in owned for owned in owners.values())
        if len(sizes) != holders or min(sizes, default=0) < 0 or sum(sizes) <= 0:
            raise invalid(
                f"parts of class {label}", list(sizes), f"must be {holders} numbers above 0, one an owner", "Correct it"
            )

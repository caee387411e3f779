"""The partitioners of flwr-datasets, by name.

They are imported when first used: with ``datasets`` behind them that takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import seeding
from fedsim.data.partition import PARTITIONS, shuffled
from fedsim.errors import FedsimError, invalid


@PARTITIONS.register("dirichlet")
def dirichlet(
    labels: Tensor,
    clients: int,
    classes: int,  # noqa: ARG001
    seed: int,
    *,
    alpha: float = 0.5,
    min_size: int = 10,
    self_balancing: bool = False,
) -> list[Tensor]:
    """Each class divided among clients in Dirichlet proportions (Yurochkin et al. 2019, arXiv:1905.12022).

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        alpha: concentration; small is skewed, large is close to IID.
        min_size: examples each client has at least; the draw is repeated up to 10 times for it.
        self_balancing: stop giving to a client that has more than the average.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    return _by_flower(
        "dirichlet",
        lambda draw: DirichletPartitioner(clients, "label", alpha, min_size, self_balancing, seed=draw),
        labels,
        clients,
        seed=seed,
        remedy="Raise alpha, or lower min_size or the number of clients",
    )


@PARTITIONS.register("shards")
def shards(
    labels: Tensor,
    clients: int,
    classes: int,  # noqa: ARG001
    seed: int,
    *,
    shards_per_client: int = 2,
    shard_size: int | None = None,
) -> list[Tensor]:
    """Examples sorted by label and cut into shards, a few for each client (McMahan et al. 2017).

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        shards_per_client: shards each client gets.
        shard_size: examples a shard; by default as many as there are for all, the remainder left over.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    return _by_flower(
        "shards",
        lambda draw: ShardPartitioner(clients, "label", shards_per_client, shard_size, seed=draw),
        labels,
        clients,
        seed=seed,
        remedy="Take fewer shards_per_client, a smaller shard_size or fewer clients",
    )


@PARTITIONS.register("pathological")
def pathological(
    labels: Tensor,
    clients: int,
    classes: int,  # noqa: ARG001
    seed: int,
    *,
    classes_per_client: int = 2,
    assignment: Literal["random", "deterministic", "first-deterministic"] = "first-deterministic",
) -> list[Tensor]:
    """Each client has exactly this many classes (Li et al. 2022, arXiv:2102.02079).

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        classes_per_client: classes each client has.
        assignment: how classes are chosen: the first one in turn and the others at random (the paper's
            ``first-deterministic``), all at ``random``, or all in turn (``deterministic``). At random a class
            that no client drew is left over.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    return _by_flower(
        "pathological",
        lambda draw: PathologicalPartitioner(clients, "label", classes_per_client, assignment, seed=draw),
        labels,
        clients,
        seed=seed,
        remedy="Take fewer clients or fewer classes_per_client",
    )


@PARTITIONS.register("distribution")
def distribution(
    labels: Tensor,
    clients: int,
    classes: int,
    seed: int,
    *,
    classes_per_client: int = 2,
    sigma: float = 2.0,
    min_per_class: int = 5,
) -> list[Tensor]:
    """Few classes a client and log-normal sizes: the power law of FedProx (Li et al. 2020, arXiv:1812.06127).

    Args:
        labels: int64 [N].
        clients: how many; a multiple of the classes present.
        classes: number of classes.
        seed: of the experiment.
        classes_per_client: neighbouring classes each client has.
        sigma: standard deviation of the logarithm of the sizes.
        min_per_class: examples of each of its classes that a client has at least.
    """
    from flwr_datasets.partitioner import DistributionPartitioner

    present = len(torch.unique(labels))
    if clients % present:
        raise invalid("clients", clients, f"not a multiple of the {present} classes present", "Correct it")
    shape = (present, classes_per_client * clients // present)
    weights = seeding.numpy_generator(seed, "partition", "distribution").lognormal(0.0, sigma, shape)
    return _by_flower(
        "distribution",
        lambda draw: DistributionPartitioner(
            weights, clients, min(classes_per_client, classes), "label", min_per_class, seed=draw
        ),
        labels,
        clients,
        seed=seed,
        remedy="Take fewer clients, classes_per_client or min_per_class",
    )


@PARTITIONS.register("inner_dirichlet")
def inner_dirichlet(
    labels: Tensor,
    clients: int,
    classes: int,  # noqa: ARG001
    seed: int,
    *,
    alpha: float = 0.5,
    sizes: list[int] | None = None,
) -> list[Tensor]:
    """Each client draws its own mixture of classes, at sizes given (Acar et al. 2021, arXiv:2111.04263).

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        alpha: concentration of the mixtures; small is skewed.
        sizes: examples of each client; by default all the same.
    """
    from flwr_datasets.partitioner import InnerDirichletPartitioner

    each = _sizes(sizes, clients, len(labels)) if sizes is not None else [len(labels) // clients] * clients
    return _by_flower(
        "inner_dirichlet",
        lambda draw: InnerDirichletPartitioner(each, "label", alpha, seed=draw),
        labels,
        clients,
        seed=seed,
        remedy="Raise alpha or lower the sizes",
    )


@PARTITIONS.register("linear")
def linear(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:  # noqa: ARG001
    """IID with sizes that grow linearly: client i has a share proportional to i + 1."""
    from flwr_datasets.partitioner import LinearPartitioner

    return _by_flower(
        "linear", lambda _: LinearPartitioner(clients), labels, clients, seed=seed, remedy="Take fewer clients"
    )


@PARTITIONS.register("square")
def square(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:  # noqa: ARG001
    """IID with sizes that grow as a square: client i has a share proportional to (i + 1)²."""
    from flwr_datasets.partitioner import SquarePartitioner

    return _by_flower(
        "square", lambda _: SquarePartitioner(clients), labels, clients, seed=seed, remedy="Take fewer clients"
    )


@PARTITIONS.register("exponential")
def exponential(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:  # noqa: ARG001
    """IID with sizes that grow exponentially: client i has a share proportional to exp(i)."""
    from flwr_datasets.partitioner import ExponentialPartitioner

    return _by_flower(
        "exponential",
        lambda _: ExponentialPartitioner(clients),
        labels,
        clients,
        seed=seed,
        remedy="Take fewer clients",
    )


@PARTITIONS.register("sizes")
def sizes(labels: Tensor, clients: int, classes: int, seed: int, sizes: list[int]) -> list[Tensor]:  # noqa: ARG001
    """IID with sizes given, one a client; what they do not take is left over.

    Args:
        labels: int64 [N].
        clients: how many.
        classes: number of classes.
        seed: of the experiment.
        sizes: examples of each client.
    """
    from flwr_datasets.partitioner import SizePartitioner

    each = _sizes(sizes, clients, len(labels))
    return _by_flower("sizes", lambda _: SizePartitioner(each), labels, clients, seed=seed, remedy="Correct the sizes")


def _by_flower(
    name: str, make: Callable[[int], Any], labels: Tensor, clients: int, *, seed: int, remedy: str
) -> list[Tensor]:
    """Run a partitioner of flwr-datasets on a table of labels and shuffled indices; nothing touches disk or network.

    Some partitioners deal rows out in the order of the table, hence the shuffle; and some take labels for
    consecutive numbers, hence the renumbering.
    """
    order = shuffled(len(labels), seed)
    dense = torch.unique(labels, return_inverse=True)[1]
    table = _table(dense[order], order)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what they warn of is either meant or an error below
        try:
            partitioner = make(seeding.derive(seed, "partition", name))
            partitioner.dataset = table
            parts = [partitioner.load_partition(client)["index"] for client in range(clients)]
        except (ValueError, TypeError, IndexError, AssertionError, ArithmeticError) as error:
            problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise FedsimError(f"partition {name!r} into {clients} clients: {problem}. {remedy}.") from error
    return [torch.from_numpy(np.sort(part)) for part in parts]


def _table(labels: Tensor, index: Tensor) -> Any:
    """Labels and indices as the in-memory ``datasets.Dataset`` that partitioners ask for.

    Read as arrays: a ``datasets.Dataset`` of today gives a column item by item and makes a table of each
    client's rows, which takes 13 seconds for 60,000 labels and 10 milliseconds a client.
    """
    import datasets

    class Table(datasets.Dataset):  # type: ignore[misc]  # datasets has no types
        def __getitem__(self, column: str) -> NDArray[np.int64]:
            found: NDArray[np.int64] = self.data.column(column).to_numpy()
            return found

        def sort(self, column: str) -> Table:
            rows = np.argsort(self[column], kind="stable")
            return Table.from_dict({name: self[name][rows] for name in self.column_names})  # type: ignore[no-any-return]

        def select(self, rows: Sequence[int]) -> dict[str, NDArray[np.int64]]:
            return {name: self[name][np.asarray(rows, dtype=np.int64)] for name in self.column_names}

    return Table.from_dict({"label": labels.numpy(), "index": index.numpy()})


def _sizes(sizes: list[int], clients: int, examples: int) -> list[int]:
    if len(sizes) != clients:
        raise invalid("sizes", sizes, f"{len(sizes)} sizes for {clients} clients", "Give one a client")
    if min(sizes) < 1 or sum(sizes) > examples:
        raise invalid("sizes", sizes, f"each must be 1 or more, and all together at most {examples}", "Correct them")
    return sizes

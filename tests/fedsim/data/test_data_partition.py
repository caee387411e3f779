"""Partitions: disjoint, seeded, of the shape their names promise."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.data import PARTITIONS, Shards, describe, load, partition
from fedsim.data.partition import shuffled
from fedsim.errors import FedsimError
from fedsim.seeding import derive

LABELS = torch.randperm(3000, generator=torch.Generator().manual_seed(0)) % 10
CLIENTS = 10
PARAMETERS: dict[str, dict[str, object]] = {
    "sizes": {"sizes": [100 + 10 * i for i in range(CLIENTS)]},
    "inner_dirichlet": {"alpha": 0.3},
    "overlapping": {"examples": 40},
    "owners": {"owners": {9: [1], 8: [2], 7: [2]}},
}
CLIENTS_OF = {"exponential": 5}  # at ten the smallest client would get nothing
WHOLE = ["iid", "mavericks", "owners", "dirichlet", "pathological", "distribution", "linear", "square"]


def dealt(
    name: str, *, seed: int = 0, labels: Tensor = LABELS, clients: int | None = None, **parameters: object
) -> Shards:
    given = PARAMETERS.get(name, {}) | parameters
    clients = CLIENTS_OF.get(name, CLIENTS) if clients is None else clients
    return partition(labels, name, clients, classes=10, seed=seed, **given)


def same(one: Shards, other: Shards) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", PARTITIONS.names())
def test_shards_are_disjoint_ascending_and_seeded(name: str) -> None:
    shards = dealt(name)
    every = torch.cat(list(shards))
    assert len(shards) == CLIENTS_OF.get(name, CLIENTS)
    assert every.dtype == torch.int64
    assert len(every.unique()) == len(every) or name == "overlapping"
    assert all((shard.diff() > 0).all() for shard in shards)
    assert (len(every) == len(LABELS)) or name not in WHOLE
    assert same(shards, dealt(name))
    assert not same(shards, dealt(name, seed=1))


def test_no_global_random_state_is_touched_or_read() -> None:
    for name in PARTITIONS.names():
        expected = dealt(name)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002  (that nothing reads it is the point)
        torch.manual_seed(5)
        before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # type: ignore[index, union-attr]  # noqa: NPY002
        assert same(expected, dealt(name))
        after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # type: ignore[index, union-attr]  # noqa: NPY002
        assert before == after


@pytest.mark.parametrize(
    ("name", "flower", "parameters"),
    [
        ("dirichlet", "DirichletPartitioner", {"alpha": 0.5, "min_partition_size": 10, "partition_by": "label"}),
        ("shards", "ShardPartitioner", {"num_shards_per_partition": 2, "partition_by": "label"}),
        ("linear", "LinearPartitioner", {}),
    ],
)
def test_the_quick_table_changes_nothing(name: str, flower: str, parameters: dict[str, object]) -> None:
    """The same partitioner over an ordinary datasets.Dataset deals the same rows to the same clients."""
    import datasets
    from flwr_datasets import partitioner

    order = shuffled(len(LABELS), 0)
    seeded = {"seed": derive(0, "partition", name)} if parameters else {}
    reference = getattr(partitioner, flower)(CLIENTS, **parameters, **seeded)
    reference.dataset = datasets.Dataset.from_dict({"label": LABELS[order].numpy(), "index": order.numpy()})
    expected = [torch.tensor(sorted(reference.load_partition(client)["index"])) for client in range(CLIENTS)]
    assert same(dealt(name), expected)


def test_iid_sizes_differ_by_at_most_one_and_classes_are_even() -> None:
    shards = dealt("iid", clients=7)
    assert {len(shard) for shard in shards} == {428, 429}
    counts = torch.stack([torch.bincount(LABELS[shard], minlength=10) for shard in shards])
    assert (counts - 43).abs().max() < 30  # 4.8 standard deviations of a hypergeometric draw


def test_dirichlet_is_skewed_by_a_small_alpha() -> None:
    def distance(alpha: float) -> float:
        """Mean total-variation distance of a client's classes from the uniform distribution."""
        shards = dealt("dirichlet", alpha=alpha)
        mixtures = torch.stack([torch.bincount(LABELS[s], minlength=10) / len(s) for s in shards])
        return float((mixtures - 0.1).abs().sum(1).mean() / 2)

    assert distance(0.1) > 0.5
    assert distance(100.0) < 0.1
    assert min(len(s) for s in dealt("dirichlet", alpha=0.5, min_size=50)) >= 50
    spread = [np.std([len(s) for s in dealt("dirichlet", alpha=0.3, self_balancing=on)]) for on in (False, True)]
    assert spread[1] < spread[0]


def test_few_classes_a_client() -> None:
    for name, parameters, most in (
        ("pathological", {"classes_per_client": 3}, 3),
        ("distribution", {"classes_per_client": 2}, 2),
        ("shards", {"shards_per_client": 2, "shard_size": 150}, 2),
    ):
        found = [len(LABELS[shard].unique()) for shard in dealt(name, **parameters)]  # type: ignore[arg-type]
        assert max(found) == most, name
        assert name == "shards" or min(found) == most


def test_sizes_are_as_named() -> None:
    assert [len(s) for s in dealt("sizes")] == PARAMETERS["sizes"]["sizes"]
    assert [len(s) for s in dealt("inner_dirichlet", sizes=[50] * 9 + [70])] == [50] * 9 + [70]
    for name, power in (("linear", 1), ("square", 2)):
        shares = np.arange(1, CLIENTS + 1) ** power
        np.testing.assert_allclose([len(s) for s in dealt(name)], 3000 * shares / shares.sum(), atol=CLIENTS)
    lengths = np.array([len(s) for s in dealt("exponential", clients=5)])
    ratios = lengths[1:] / lengths[:-1]
    np.testing.assert_allclose(ratios, np.e, rtol=0.05)


def test_labels_need_not_be_consecutive() -> None:
    """Only classes 2, 5 and 9 are present; flwr-datasets' inner Dirichlet would look for 0, 1 and 2."""
    labels = torch.tensor([2, 5, 9]).repeat(100)
    for name in ("inner_dirichlet", "dirichlet", "shards", "pathological"):
        assert (
            sum(len(s) for s in dealt(name, labels=labels, clients=6, **({"alpha": 1.0} if "dir" in name else {})))
            == 300
        )


@pytest.mark.parametrize(
    ("name", "clients", "parameters", "words"),
    [
        ("iid", 3001, {}, ["clients = 3001", "3000 images"]),
        ("dirichlet", 3001, {}, ["clients = 3001", "3000 images"]),
        ("iid", 0, {}, ["clients = 0"]),
        ("iidd", 5, {}, ["Did you mean 'iid'"]),
        ("dirichlet", 5, {"alpah": 1}, ["Did you mean 'alpha'"]),
        ("dirichlet", 5, {"alpha": "much"}, ["alpha = 'much'"]),
        ("dirichlet", 5, {"alpha": 0.0}, ["strictly greater than zero", "Raise alpha"]),
        ("dirichlet", 300, {"alpha": 0.05}, ["max number of attempts", "min_size"]),
        ("dirichlet", 300, {"alpha": 0.01, "min_size": 0}, ["without an example", "less skewed"]),
        ("pathological", 5, {"classes_per_client": 11}, ["greater than the number of unique classes"]),
        ("pathological", 5, {"assignment": "any"}, ["assignment = 'any'"]),
        ("shards", 5, {"shard_size": 2000}, ["shard_size"]),
        ("distribution", 11, {}, ["not a multiple of the 10 classes"]),
        ("square", 1000, {}, ["square", "Take fewer clients"]),
        ("exponential", 1000, {}, ["exponential", "Take fewer clients"]),
        ("overlapping", 5, {"examples": 3001}, ["examples = 3001", "1 to 3000"]),
        ("overlapping", 5, {}, ["examples"]),
        ("sizes", 5, {"sizes": [1, 2]}, ["2 sizes for 5 clients"]),
        ("sizes", 2, {"sizes": [3000, 1]}, ["at most 3000"]),
        ("sizes", 2, {"sizes": [3, 0]}, ["1 or more"]),
        ("inner_dirichlet", 2, {"sizes": [1, 2, 3]}, ["3 sizes for 2 clients"]),
    ],
)
def test_what_cannot_be_dealt_out_is_told(
    name: str, clients: int, parameters: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(FedsimError) as caught:
        partition(LABELS, name, clients, classes=10, seed=0, **parameters)
    for word in words:
        assert word in str(caught.value)


def twice(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:
    return [torch.arange(5)] * clients


def outside(labels: Tensor, clients: int, classes: int, seed: int) -> list[Tensor]:
    return [torch.tensor([len(labels) + i]) for i in range(clients)]


@pytest.mark.parametrize(("function", "word"), [("twice", "two clients"), ("outside", "not int64 in")])
def test_a_partition_of_the_users_own_is_checked(function: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "their_module", sys.modules[__name__])
    with pytest.raises(FedsimError, match=word):
        dealt(f"their_module:{function}")


def test_a_hundred_thousand_clients_take_seconds() -> None:
    labels = torch.arange(150_000) % 10
    start = time.perf_counter()
    shards = dealt("iid", labels=labels, clients=100_000)
    assert time.perf_counter() - start < 10
    assert {len(shard) for shard in shards} == {1, 2}


def test_clients_that_draw_for_themselves_share_images_and_are_as_many_as_you_like() -> None:
    shards = dealt("overlapping", clients=100_000, examples=30)
    assert len(shards) == 100_000
    assert (shards.sizes == 30).all()
    some = torch.stack([shards[client] for client in range(2_000)])
    assert all(len(row.unique()) == 30 for row in some)
    # Uniform over 3000 images: each is drawn 20 times on average, with the variance of a binomial.
    counts = torch.bincount(some.flatten(), minlength=3000).double()
    assert counts.mean() == 20
    assert abs(float(counts.var()) / (2_000 * 0.01 * 0.99) - 1) < 0.1
    assert shards[7].equal(dealt("overlapping", clients=50, examples=30)[7])  # whoever else there is
    assert "which share 3000 images" in describe(shards, LABELS, [str(n) for n in range(10)])


def test_the_description_shows_every_count() -> None:
    data = load("fashion_mnist_small").train
    shards = partition(data.labels, "pathological", 25, classes=10, seed=0)
    text = describe(shards, data.labels, data.classes)
    assert "25 clients, 4000 of 4000 images" in text
    assert "and 5 more" in text
    first = text.splitlines()[3].split()
    counts = torch.bincount(data.labels[shards[0]], minlength=10).tolist()
    assert first == ["0", str(len(shards[0])), *(str(count or ".") for count in counts)]


def test_flower_datasets_stay_off_the_network_the_cache_and_the_terminal(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a process whose sockets raise and whose Hugging Face folder is new, nothing is said and nothing written."""
    code = """
import socket
def refuse(*_, **__): raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
from fedsim.data import partition
labels = torch.arange(300) % 3
for name in ("dirichlet", "shards", "pathological", "linear", "inner_dirichlet"):
    partition(labels, name, 5, classes=3, seed=0)
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["MPLCONFIGDIR"] = str(
        tmp_path_factory.mktemp("fonts")
    )  # flwr-datasets imports matplotlib, which lists fonts
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

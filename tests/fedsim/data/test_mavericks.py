"""Mavericks: who owns a class has it, what the layouts of the study give, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedsim.data import Shards, partition
from fedsim.data.mavericks import apportioned, ownership_of
from fedsim.errors import FedsimError

LABELS = torch.arange(10).repeat_interleave(6000)[torch.randperm(60_000, generator=torch.Generator().manual_seed(0))]


def dealt(name: str = "mavericks", clients: int = 50, seed: int = 0, **parameters: object) -> Shards:
    return partition(LABELS, name, clients, classes=10, seed=seed, **parameters)


def counts(shards: Shards) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.stack([np.bincount(LABELS[shard], minlength=10) for shard in shards])
    return found


def test_one_exclusive_maverick_as_in_the_study() -> None:
    """Layout reduce_1_plus on Fashion-MNIST: 7080 images, and 1080 for each of the others."""
    shards = dealt(owned=[1])
    assert shards.sizes.tolist() == [1080] * 49 + [7080]
    assert sorted(torch.cat(list(shards)).tolist()) == list(range(60_000))
    owned = ownership_of(counts(shards))
    assert owned[:, 1].tolist() == [0.0] * 49 + [1.0]
    assert np.allclose(np.delete(owned, 1, axis=1), 1 / 50)


@pytest.mark.parametrize("number", [2, 3])
def test_exclusive_mavericks_own_a_class_each(number: int) -> None:
    held = counts(dealt(mavericks=number))
    for maverick in range(number):
        assert held[49 - maverick, maverick] == 6000
    assert (held[: 50 - number, :number] == 0).all()
    assert (held[:, number:] == 120).all()


def test_shared_mavericks_own_a_class_together() -> None:
    held = counts(dealt(mavericks=3, owned=[1], shared=True))
    assert held[47:, 1].tolist() == [2000] * 3
    assert (held[:47, 1] == 0).all()
    uneven = counts(dealt("owners", owners={49: [1], 3: [1]}, parts={1: [0.25, 0.75]}))
    assert (uneven[49, 1], uneven[3, 1]) == (1500, 4500)


def test_a_maverick_without_the_rest_or_with_more_of_it() -> None:
    alone = counts(dealt(owned=[1], share_of_rest=0.0))
    assert alone[49].tolist() == [0, 6000] + [0] * 8
    assert set(alone[:49, 0].tolist()) == {122, 123}
    more = dealt(owned=[], share_of_rest=10.0)
    assert more.sizes[49] == pytest.approx(10 * more.sizes[:49].mean(), rel=0.01)


def test_most_of_a_class() -> None:
    held = counts(dealt(owned=[4], ownership=0.9))
    assert held[49, 4] == 5400
    assert held[:49, 4].sum() == 600
    assert held[:49, 4].max() - held[:49, 4].min() <= 1


def test_by_dealing_what_does_not_divide_sizes_stay_even() -> None:
    """Each class leaves one to four images over; they do not all go to the first clients."""
    shards = dealt(clients=47, owned=[])
    assert shards.sizes.max() - shards.sizes.min() < 10
    assert shards.sizes[0] < shards.sizes.max()


def test_which_images_depends_on_the_seed_and_how_many_does_not() -> None:
    one, same, other = dealt(seed=3), dealt(seed=3), dealt(seed=4)
    assert all(a.equal(b) for a, b in zip(one, same, strict=True))
    assert not one[49].equal(other[49])
    assert one.sizes.tolist() == other.sizes.tolist()


def test_largest_remainder() -> None:
    """Quotas 4.5, 3.6, 0.9 and 0: the two seats over go to the largest remainders."""
    sizes = apportioned(9, np.array([5.0, 4.0, 1.0, 0.0]), np.arange(4))
    assert sizes.tolist() == [4, 4, 1, 0]
    for total in range(1, 60):
        weights = np.random.default_rng(total).random(7)
        shares = apportioned(total, weights, np.arange(7))
        assert shares.sum() == total
        assert (np.abs(shares - total * weights / weights.sum()) < 1).all()


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("mavericks", {"mavericks": 51}, "mavericks = 51"),
        ("mavericks", {"mavericks": 3, "owned": [1]}, "fewer classes"),
        ("mavericks", {"owned": [10]}, "owned classes = 10"),
        ("mavericks", {"ownership": 0.0}, "ownership"),
        ("mavericks", {"share_of_rest": -1.0}, "share_of_rest"),
        ("owners", {"owners": {50: [1]}}, "no client of 0 to 49"),
        ("owners", {"owners": {49: [1, 1]}}, "twice"),
        ("owners", {"owners": {49: [1]}, "parts": {1: [0.5, 0.5]}}, "must be 1 numbers"),
        ("mavericks", {"mavericks": 50, "owned": [0], "shared": True, "share_of_rest": 0.0}, "leaves nobody"),
    ],
)
def test_what_cannot_be_is_refused(name: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(FedsimError, match=words):
        dealt(name, **given)


def test_tables_of_a_configuration_have_text_for_keys() -> None:
    """TOML's keys are texts; clients and classes are numbers."""
    assert counts(dealt("owners", owners={"49": [1]}))[49, 1] == 6000

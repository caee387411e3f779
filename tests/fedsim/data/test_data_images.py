"""Images, their statistics and their normalisation."""

from __future__ import annotations

import pytest
import torch

from fedsim.data.images import DataSet, Images, normalised, statistics
from fedsim.errors import FedsimError

PIXELS = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(50) % 4
NAMES = ("a", "b", "c", "d")


def test_statistics_are_those_of_torch() -> None:
    mean, std = statistics(PIXELS)
    scaled = PIXELS.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), scaled.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.tensor(std).double(), scaled.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    fed = normalised(PIXELS, *statistics(PIXELS))
    assert fed.dtype == torch.float32
    torch.testing.assert_close(fed.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(fed.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_a_constant_channel_stays_finite() -> None:
    black = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    assert normalised(black, *statistics(black)).eq(0).all()


def test_a_subset_keeps_images_and_labels_together() -> None:
    order = torch.tensor([7, 3, 3, 49])
    part = Images(PIXELS, LABELS, NAMES).subset(order)
    assert part.images.equal(PIXELS[order])
    assert part.labels.tolist() == [3, 3, 3, 1]
    assert part.label_counts() == (0, 1, 0, 3)
    assert len(Images(PIXELS, LABELS, NAMES).subset(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    ("images", "labels", "word"),
    [
        (PIXELS.float(), LABELS, "images: dtype"),
        (PIXELS[0], LABELS, "images: shape"),
        (PIXELS, LABELS.int(), "labels: dtype"),
        (PIXELS, LABELS[:-1], "there are 50 images"),
        (PIXELS, torch.full((50,), 4), r"labels\[0\] = 4: not a class; there are 4"),
        (PIXELS, LABELS - 1, r"labels\[0\] = -1"),
    ],
)
def test_what_is_not_labelled_images_is_refused(images: torch.Tensor, labels: torch.Tensor, word: str) -> None:
    with pytest.raises(FedsimError, match=word):
        Images(images, labels, NAMES)


def test_splits_that_do_not_fit_are_refused() -> None:
    train = Images(PIXELS, LABELS, NAMES)
    for test, word in (
        (Images(PIXELS[:, :1], LABELS, NAMES), "one shape"),
        (Images(PIXELS, LABELS, ("a", "b", "d", "c")), "different classes"),
        (Images(PIXELS[:0], LABELS[:0], NAMES), "the test split has no examples"),
    ):
        with pytest.raises(FedsimError, match=word):
            DataSet("odd", train, test, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(FedsimError, match="one value a channel"):
        DataSet("odd", train, train, (0.0,), (1.0,))

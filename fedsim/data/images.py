"""Labelled images in memory or in a memory map, and a data set made of a training and a test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.errors import FedsimError, invalid

LEVELS = 256
"""Values a uint8 pixel can take."""


@dataclass(frozen=True)
class Images:
    """Labelled images of one split, or of one client.

    Attributes:
        images: uint8 [N, C, H, W]; backed by the file's memory map where it comes from the store.
        labels: int64 [N], each in [0, len(classes)).
        classes: a name for each class.

    Raises:
        FedsimError: wrong type or shape, lengths that differ, or a label that is no class.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, tensor, dtype, dimensions in (
            ("images", self.images, torch.uint8, 4),
            ("labels", self.labels, torch.int64, 1),
        ):
            if tensor.dtype != dtype:
                raise invalid(f"{name}: dtype", str(tensor.dtype), f"must be {dtype}", "Convert the tensor")
            if tensor.dim() != dimensions:
                shape = "[N, C, H, W]" if dimensions == 4 else "[N]"
                raise invalid(f"{name}: shape", list(tensor.shape), f"must be {shape}", "Reshape the tensor")
        if len(self.images) != len(self.labels):
            raise invalid(
                "labels", f"{len(self.labels)} entries", f"there are {len(self.images)} images", "Give a label an image"
            )
        check_labels(self.labels, len(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Images:
        """A copy of the examples at ``indices``, int64 [n], in that order."""
        part = object.__new__(Images)  # of what has been checked, and so not checked again: small parts are taken often
        part.__dict__.update(images=self.images[indices], labels=self.labels[indices], classes=self.classes)
        return part

    def label_counts(self) -> tuple[int, ...]:
        """Examples of each class."""
        return tuple(torch.bincount(self.labels, minlength=len(self.classes)).tolist())


@dataclass(frozen=True)
class DataSet:
    """A training and a test split over the same classes, and how images are fed to a network.

    Attributes:
        name: as it is called in a configuration.
        train: examples that are dealt out to clients.
        test: examples held out for evaluation.
        mean: per-channel mean that is subtracted from images in [0, 1].
        std: per-channel standard deviation that they are divided by.

    Raises:
        FedsimError: the splits differ in shape or classes, a split is empty, or ``mean`` and ``std`` do not
            fit the channels.
    """

    name: str
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            if len(images) == 0:
                raise FedsimError(f"data {self.name!r}: the {split} split has no examples. Give it some.")
        shapes = [list(split.images.shape[1:]) for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise FedsimError(
                f"data {self.name!r}: training images are {shapes[0]}, test images are {shapes[1]} "
                "(channels, height, width). Bring them to one shape."
            )
        if self.train.classes != self.test.classes:
            raise FedsimError(
                f"data {self.name!r}: the splits have different classes, {_short(self.train.classes)} and "
                f"{_short(self.test.classes)}. Give both the same names in the same order."
            )
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != shapes[0][0]:
                raise invalid(
                    f"data {self.name}: {what}", values, f"{shapes[0][0]} channels", "Give one value a channel"
                )
        if min(self.std) <= 0:
            raise invalid(f"data {self.name}: std", self.std, "must be above 0", "Correct it")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.classes)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What a network is fed: float32 [N, C, H, W], ``(images / 255 - mean) / std`` per channel.

    Args:
        images: uint8 [N, C, H, W].
        mean: one value a channel, of images in [0, 1].
        std: one value a channel.
    """
    scaled = images.to(torch.float32) / (LEVELS - 1)
    shift, scale = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (scaled - shift) / scale


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], over all pixels of uint8 [N, C, H, W].

    Counted over the 256 levels, so the result does not depend on the order of summation. A channel that is
    constant gets a standard deviation of 1.
    """
    levels = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = torch.zeros(LEVELS, dtype=torch.int64)
        for chunk in torch.split(images[:, channel], 4096):  # bounds the copy that a channel of a memory map costs
            counts += torch.bincount(chunk.flatten(), minlength=LEVELS)
        shares = counts.double() / counts.sum()
        centre = (shares * levels).sum()
        spread = (shares * (levels - centre) ** 2).sum().sqrt()
        mean.append(centre.item())
        std.append(spread.item() or 1.0)
    return tuple(mean), tuple(std)


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels, int64 [N], outside of [0, classes); the message names the first one."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise invalid(
            f"labels[{at}]",
            int(labels[at]),
            f"not a class; there are {classes}, from 0",
            "Correct it or name all classes",
        )


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" ... ({len(names)})" if len(names) > 5 else "")

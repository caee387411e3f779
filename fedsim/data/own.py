"""The user's own data: whatever a ``module:callable`` gives, made into a ``DataSet``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedsim.data.images import DataSet, Images, statistics
from fedsim.data.store import SPLITS, Split
from fedsim.errors import FedsimError


def as_data_set(name: str, given: Any) -> DataSet:
    """A ``DataSet`` as it is, or a pair (train, test) of map-style torch data sets, converted.

    Each item is a pair (image, label). An image is a PIL picture, a tensor or an array: uint8, or floating in
    [0, 1], of shape [C, H, W] or [H, W]. Class names come from the training set's ``classes`` if it has any.

    Args:
        name: what the data set is called from here on.
        given: what the callable gave.

    Raises:
        FedsimError: it is neither, or an item is not as above; the message names the split and the index.
    """
    if isinstance(given, DataSet):
        return given
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise FedsimError(
            f"data {name!r} gave a {type(given).__name__}. It must give a fedsim.data.DataSet, or a pair (train, test) "
            "of map-style torch data sets."
        )
    collected = {split: _collect(name, split, items) for split, items in zip(SPLITS, given, strict=True)}
    names = getattr(given[0], "classes", None)
    if names is None:
        names = range(1 + max(int(labels.max()) for _, labels in collected.values()))
    train, test = labelled(f"data {name!r}", collected, tuple(str(entry) for entry in names))
    return DataSet(name, train, test, *statistics(train.images))


def labelled(where: str, collected: Mapping[Split, tuple[Tensor, Tensor]], classes: tuple[str, ...]) -> list[Images]:
    """``Images`` of each split's pixels and labels; an error says in which split."""
    splits = []
    for split, (images, labels) in collected.items():
        try:
            splits.append(Images(images, labels, classes))
        except FedsimError as error:
            raise FedsimError(f"{where}, {split}: {error}") from error
    return splits


def as_pixels(image: Any) -> Tensor:
    """One image as uint8 [C, H, W], from PIL, a tensor or an array; floats are rounded to the 256 levels.

    Raises:
        ValueError: it is not uint8 or floating in [0, 1], or not [C, H, W] or [H, W].
    """
    if isinstance(image, Image.Image):
        picture = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        image = picture if picture.ndim == 2 else picture.transpose(2, 0, 1)
    pixels = torch.as_tensor(image)
    if pixels.dim() == 2:
        pixels = pixels[None]
    if pixels.dim() != 3:
        raise ValueError(f"the image has the shape {list(pixels.shape)}, which is neither [C, H, W] nor [H, W]")
    return as_levels(pixels)


def as_levels(pixels: Tensor) -> Tensor:
    """uint8 as it is; floating values in [0, 1] rounded to the 256 levels.

    Raises:
        ValueError: another type, or values outside.
    """
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ValueError(f"the image is {pixels.dtype}, which is neither uint8 nor floating in [0, 1]")
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ValueError(
            f"the image has values from {low:.3g} to {high:.3g}, outside of [0, 1]; leave the normalisation to fedsim"
        )
    return pixels.mul(255).round().to(torch.uint8)


def _collect(name: str, split: str, items: Any) -> tuple[Tensor, Tensor]:
    """All items of a map-style data set: uint8 [N, C, H, W] and int64 [N]."""
    if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
        raise FedsimError(
            f"data {name!r}, {split}: a {type(items).__name__} is not a map-style data set. "
            "Give it __len__ and __getitem__."
        )
    if len(items) == 0:
        raise FedsimError(f"data {name!r}, {split}: it has no examples. Give it some.")
    images: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(items)):
        try:
            pixels, label = _item(items[index])
        except (ValueError, TypeError, RuntimeError) as error:
            raise FedsimError(f"data {name!r}, {split}: item {index}: {error}. Give (image, label) pairs.") from error
        if images and pixels.shape != images[0].shape:
            raise FedsimError(
                f"data {name!r}, {split}: item {index} has the shape {list(pixels.shape)}, item 0 has "
                f"{list(images[0].shape)}. Bring all to one shape."
            )
        images.append(pixels)
        labels.append(label)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _item(item: Any) -> tuple[Tensor, int]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(f"it is a {type(item).__name__}")
    image, label = item
    if isinstance(label, bool) or int(label) != label:
        raise ValueError(f"its label {label!r} is not a whole number")
    return as_pixels(image), int(label)

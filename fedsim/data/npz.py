"""Import a NumPy ``.npz`` into the store."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.data.holdout import hold_out
from fedsim.data.own import as_levels, labelled
from fedsim.data.store import SPLITS, Origin, check_name, write
from fedsim.errors import FedsimError, invalid

Layout = Literal["auto", "NHWC", "NCHW"]

KEYS = (("x_train", "y_train", "x_test", "y_test"), ("images", "labels"))
"""Names of the arrays: two splits as in Keras' files, or one that is split here."""

CHANNELS = range(1, 5)


def import_npz(
    path: Path,
    name: str,
    root: Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    layout: Layout = "auto",
    test_share: float = 0.2,
    seed: int = 0,
    licence: str = "not stated",
) -> Path:
    """Import a file with ``images`` and ``labels``, or with ``x_train, y_train, x_test, y_test``.

    Images are uint8, or floating in [0, 1], of shape [N, H, W], [N, H, W, C] or [N, C, H, W]; labels are
    integers [N] or [N, 1]. Arrays that would need unpickling are refused.

    Args:
        path: the file.
        name: of the data set in the store.
        root: of the store.
        classes: a name for each class; by default the numbers up to the largest label.
        layout: of images with four dimensions; ``auto`` takes as channels the one axis with 1 to 4 entries.
        test_share: of each class, where the file has no test split.
        seed: of the split.
        licence: noted in the files.

    Returns:
        The folder in the store.

    Raises:
        FedsimError: the file cannot be read or an array is not as above; the message names the array.
    """
    check_name(name)
    path = Path(path)
    arrays = _read(path)
    keys = list(arrays)
    pairs: list[tuple[Tensor, Tensor]] = []
    for x, y in zip(keys[::2], keys[1::2], strict=True):
        images, labels = _images(arrays[x], f"{path}: {x}", layout), _labels(arrays[y], f"{path}: {y}")
        if len(images) != len(labels):
            raise FedsimError(f"{path}: {x} has {len(images)} entries, {y} has {len(labels)}. Give a label an image.")
        pairs.append((images, labels))
    if len(pairs) == 1:
        images, labels = pairs[0]
        pairs = [(images[part], labels[part]) for part in hold_out(labels, test_share, seed)]
    highest = max(int(labels.max()) for _, labels in pairs)
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(highest + 1))
    train, test = labelled(str(path), dict(zip(SPLITS, pairs, strict=True)), names)
    return write(name, train, test, Origin(f"imported from {path.name}", licence), root)


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of the first set of ``KEYS`` that the file holds, in that order."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise invalid("path", str(path), "it holds one array", "Save images and labels together with numpy.savez")
        with loaded as file:
            for keys in KEYS:
                if set(keys) <= set(file.files):
                    return {key: file[key] for key in keys}
            found = ", ".join(file.files) or "nothing"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FedsimError(f"{path} cannot be read ({error}). Give an .npz of plain numbers.") from error
    wanted = " or ".join(", ".join(keys) for keys in KEYS)
    raise FedsimError(f"{path} holds {found}. Name the arrays {wanted}.")


def _images(array: NDArray[np.generic], where: str, layout: Layout) -> Tensor:
    """uint8 [N, C, H, W]."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4:
        raise invalid(f"{where}: shape", list(array.shape), "neither [N, H, W] nor four dimensions", "Reshape it")
    elif layout == "NHWC" or (layout == "auto" and _channels_last(array, where)):
        array = array.transpose(0, 3, 1, 2)
    if array.size == 0:
        raise invalid(f"{where}: shape", list(array.shape), "it is empty", "Give it some images")
    try:
        return as_levels(torch.from_numpy(np.ascontiguousarray(array)))
    except (ValueError, TypeError) as error:
        raise FedsimError(f"{where}: {error}. Convert the array.") from error


def _channels_last(array: NDArray[np.generic], where: str) -> bool:
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first == last:
        problem = "it cannot be told which axis is the channels"
        raise invalid(f"{where}: shape", list(array.shape), problem, "Say layout NHWC or NCHW")
    return last


def _labels(array: NDArray[np.generic], where: str) -> Tensor:
    """int64 [N]."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise invalid(f"{where}: shape", list(array.shape), "must be [N] or [N, 1]", "Give the numbers of the classes")
    if not np.issubdtype(array.dtype, np.integer):
        raise invalid(f"{where}: dtype", str(array.dtype), "must be an integer type", "Convert the array")
    return torch.from_numpy(array.astype(np.int64))

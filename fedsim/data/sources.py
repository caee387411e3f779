"""Data sets by name: those of the store, the slice inside the package, and the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim.data import own
from fedsim.data.images import DataSet, Images, statistics
from fedsim.data.store import SPLITS, open_stored, read_split, store_root, stored_names
from fedsim.errors import invalid, unknown
from fedsim.registry import Registry

DATA: Registry[DataSet] = Registry("data", "fedsim.data", imports=True)
"""Functions of the user's parameters that give a ``DataSet``, or a pair of map-style torch data sets."""

SLICE = Path(__file__).parent / "fashion_mnist_small"


@DATA.register("fashion_mnist")
def fashion_mnist(root: Path | None = None) -> DataSet:
    """Fashion-MNIST: 60,000 and 10,000 grey pictures of clothes, 28x28, 10 classes (Xiao et al. 2017); MIT."""
    return open_stored("fashion_mnist", root, fetchable=True)


@DATA.register("mnist")
def mnist(root: Path | None = None) -> DataSet:
    """MNIST: 60,000 and 10,000 grey digits, 28x28, 10 classes (LeCun et al. 1998)."""
    return open_stored("mnist", root, fetchable=True)


@DATA.register("cifar10")
def cifar10(root: Path | None = None) -> DataSet:
    """CIFAR-10: 50,000 and 10,000 colour photographs, 32x32, 10 classes (Krizhevsky 2009); no licence stated."""
    return open_stored("cifar10", root, fetchable=True)


@DATA.register("cifar100")
def cifar100(root: Path | None = None) -> DataSet:
    """CIFAR-100: 50,000 and 10,000 colour photographs, 32x32, 100 classes (Krizhevsky 2009); no licence stated."""
    return open_stored("cifar100", root, fetchable=True)


@DATA.register("fashion_mnist_small")
def fashion_mnist_small() -> DataSet:
    """The slice of Fashion-MNIST inside the package: 4,000 and 1,000 pictures, balanced; needs no download; MIT."""
    train, test = (read_split(SLICE / f"{split}.safetensors") for split in SPLITS)
    return DataSet("fashion_mnist_small", train, test, *statistics(train.images))


def load(
    name: str,
    *,
    root: Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    normalise: bool = True,
    **parameters: Any,
) -> DataSet:
    """A data set by name.

    Args:
        name: a registered name, the name of a folder in the store, or ``module:callable`` of the user's own,
            called with the parameters; it gives a ``DataSet`` or a pair (train, test) of map-style torch data
            sets of (image, label), see ``fedsim.data.own``.
        root: of the store; by default ``$FEDSIM_DATA`` or ``~/.cache/fedsim``.
        train_size: keep the first so many training examples, in the order of the file.
        test_size: keep the first so many test examples.
        normalise: give the per-channel mean and standard deviation of the whole training split, whatever
            ``train_size``; otherwise 0 and 1.
        parameters: of a data set that takes some.

    Raises:
        FedsimError: unknown name or parameter, the data set is missing or broken, or a size is out of range.
    """
    data = _create(name, root, parameters)
    data = replace(
        data,
        train=_first(data.train, train_size, "train_size"),
        test=_first(data.test, test_size, "test_size"),
    )
    if normalise:
        return data
    channels = data.input_shape[0]
    return replace(data, mean=(0.0,) * channels, std=(1.0,) * channels)


def _create(name: str, root: Path | None, parameters: dict[str, Any]) -> DataSet:
    if ":" not in name and name not in DATA.names():
        stored = stored_names(root)
        if name in stored:
            if parameters:
                key, value = next(iter(parameters.items()))
                raise invalid(f"data {name}: {key}", value, "no such parameter", "An imported data set takes none")
            return open_stored(name, root)
        if not (store_root(root) / name).is_dir():
            raise unknown("data", name, [*DATA.names(), *stored])
        return open_stored(name, root)  # half a data set: the error says which half is missing
    if root is not None and "root" in DATA.parameters(name):
        parameters = {"root": root, **parameters}
    return own.as_data_set(name, DATA.create(name, **parameters))


def _first(images: Images, size: int | None, field: str) -> Images:
    if size is None:
        return images
    if not 1 <= size <= len(images):
        raise invalid(field, size, f"must be from 1 to {len(images)}, the size of the split", "Correct it")
    if size == len(images):
        return images
    return Images(images.images[:size], images.labels[:size], images.classes)

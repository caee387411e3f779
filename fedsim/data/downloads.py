"""Fill the store from torchvision's own downloads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.data.store import Origin, store_root, write
from fedsim.errors import FedsimError, unknown


@dataclass(frozen=True)
class Download:
    """A data set that torchvision can download: the name of its class there, and its origin."""

    torchvision: str
    origin: Origin


DOWNLOADS: dict[str, Download] = {
    "fashion_mnist": Download("FashionMNIST", Origin("Fashion-MNIST (Xiao et al. 2017), by torchvision", "MIT")),
    "mnist": Download("MNIST", Origin("MNIST (LeCun et al. 1998), by torchvision", "not stated")),
    "cifar10": Download(
        "CIFAR10", Origin("CIFAR-10 (Krizhevsky 2009), by torchvision", "none stated; do not redistribute")
    ),
    "cifar100": Download(
        "CIFAR100", Origin("CIFAR-100 (Krizhevsky 2009), by torchvision", "none stated; do not redistribute")
    ),
}
"""What ``fetch`` knows, by the name in the store."""


def fetch(name: str, root: Path | None = None) -> Path:
    """Download a data set with torchvision and write it into the store; the folder it is in.

    torchvision reads CIFAR by unpickling, after it compared the download with a known MD5 sum; from then on
    the data are safetensors, and fedsim never unpickles.

    Args:
        name: one of ``DOWNLOADS``.
        root: of the store.

    Raises:
        FedsimError: unknown name, the download failed, or the store cannot be written.
    """
    if name not in DOWNLOADS:
        raise unknown("data to fetch", name, DOWNLOADS)
    import torchvision

    download = DOWNLOADS[name]
    make = getattr(torchvision.datasets, download.torchvision)
    with tempfile.TemporaryDirectory(prefix="fedsim-") as folder:
        try:
            train, test = (make(folder, train=train, download=True) for train in (True, False))
        except (OSError, RuntimeError) as error:  # torchvision's, urllib's and the disk's ways to fail
            raise FedsimError(
                f"data {name!r} could not be downloaded ({error}). Is there a network? Otherwise put "
                f"train.safetensors and test.safetensors into {store_root(root) / name}."
            ) from error
        return write(name, from_torchvision(train), from_torchvision(test), download.origin, root)


def from_torchvision(data: Any) -> Images:
    """The whole of one of torchvision's MNIST-like or CIFAR-like data sets as ``Images``.

    Args:
        data: has ``data``, uint8 [N, H, W] or [N, H, W, C], as tensor or array, ``targets`` and ``classes``.
    """
    pixels: Tensor = torch.as_tensor(data.data)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    names = tuple(entry.split(" - ")[0] for entry in data.classes)  # MNIST's are "0 - zero" and so on
    return Images(pixels.contiguous(), torch.as_tensor(data.targets, dtype=torch.int64), names)

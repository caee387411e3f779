"""Make the slice of Fashion-MNIST that ships inside the package: ``python -m fedsim.data.make_slice``.

The first 400 training and 100 test pictures of each class, in the order of the full set, which must be in
the store. The same full set gives the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.data.sources import SLICE
from fedsim.data.store import Origin, Split, encode, open_stored, replace

PER_CLASS: dict[Split, int] = {"train": 400, "test": 100}
ORIGIN = Origin(
    source="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747), the first pictures of each class",
    licence="MIT, Copyright (c) 2017 Zalando SE",
)


def slice_bytes(split: Split, root: Path | None = None) -> bytes:
    """The file of one split, made from the full set in the store.

    Raises:
        FedsimError: the full set is not in the store.
    """
    full = open_stored("fashion_mnist", root, fetchable=True)
    images: Images = getattr(full, split)
    return encode(images.subset(first_of_each_class(images.labels, PER_CLASS[split])), ORIGIN)


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Ascending indices of the first ``count`` examples of each class in int64 labels [N]."""
    return torch.cat([(labels == label).nonzero()[:count, 0] for label in torch.unique(labels)]).sort().values


def main() -> None:
    """Write both files of the slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SLICE, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in PER_CLASS:
        replace(out / f"{split}.safetensors", slice_bytes(split))


if __name__ == "__main__":
    main()

"""Import a folder of image files into the store."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fedsim.data.holdout import hold_out
from fedsim.data.own import as_pixels, labelled
from fedsim.data.store import SPLITS, Origin, Split, check_name, write
from fedsim.errors import FedsimError, invalid

Files = list[tuple[Path, int]]

GREY = {"1", "L", "LA"}
"""Modes of PIL that have no colour, at 8 bits or fewer."""

DEEP = ("I", "F")
"""How the modes of PIL begin that have more than 8 bits a channel; PIL would clip them at 255."""


def import_folder(
    path: Path,
    name: str,
    root: Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    licence: str = "not stated",
) -> Path:
    """Import a folder with one subfolder of image files a class; the folder in the store.

    If the subfolders are ``train`` and ``test``, those are the splits, each with its classes inside;
    otherwise a share of each class, drawn by the seed, becomes the test split. Pictures are grey if all files
    are, otherwise RGB.

    Args:
        path: the folder.
        name: of the data set in the store.
        root: of the store.
        size: height and width, or one number for both, that pictures of another size are resized to
            (bicubic); by default all must have the same size already.
        test_share: of each class, where there is no test folder.
        seed: of the split.
        licence: noted in the files.

    Raises:
        FedsimError: no folder or no class in it, a file is no image, or sizes differ and ``size`` is not given.
    """
    check_name(name)
    path = Path(path)
    if not path.is_dir():
        raise invalid("path", str(path), "no such folder", "Name a folder with one subfolder of images a class")
    inside = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    files, classes = _two_splits(path) if inside == set(SPLITS) else _one_split(path, test_share, seed)
    mode, shape = _form([file for split in files.values() for file, _ in split], size)
    collected = {
        split: (
            torch.stack([_pixels(file, mode, shape) for file, _ in members]),
            torch.tensor([label for _, label in members]),
        )
        for split, members in files.items()
    }
    train, test = labelled(str(path), collected, classes)
    return write(name, train, test, Origin(f"imported from the folder {path.name}", licence), root)


def _two_splits(path: Path) -> tuple[dict[Split, Files], tuple[str, ...]]:
    train, classes = _image_files(path / "train")
    test, test_classes = _image_files(path / "test")
    if classes != test_classes:
        odd = min(set(classes) ^ set(test_classes))
        raise FedsimError(f"{path}: only one of train and test has the class folder {odd!r}. Add it to the other.")
    return {"train": train, "test": test}, classes


def _one_split(path: Path, test_share: float, seed: int) -> tuple[dict[Split, Files], tuple[str, ...]]:
    files, classes = _image_files(path)
    train, test = hold_out(torch.tensor([label for _, label in files]), test_share, seed)
    return {"train": [files[i] for i in train.tolist()], "test": [files[i] for i in test.tolist()]}, classes


def _image_files(path: Path) -> tuple[Files, tuple[str, ...]]:
    """All image files below class folders, sorted, as torchvision's ``ImageFolder`` finds them."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(path))
    except OSError as error:  # FileNotFoundError: no class, or a class without images
        problem = str(error).split("\n")[0].rstrip(".")
        raise FedsimError(f"{path}: {problem}. Make one subfolder of images a class.") from error
    return [(Path(file), label) for file, label in found.samples], tuple(found.classes)


def _form(files: list[Path], size: int | tuple[int, int] | None) -> tuple[str, tuple[int, int]]:
    """The mode all pictures are converted to, and their height and width."""
    modes: set[str] = set()
    shapes: dict[tuple[int, int], Path] = {}
    for file in files:
        with _opened(file) as picture:
            if picture.mode.startswith(DEEP):
                raise FedsimError(f"{file} has more than 8 bits a channel (mode {picture.mode}). Convert it to 8 bits.")
            modes.add(picture.mode)
            shapes.setdefault((picture.height, picture.width), file)
    mode = "L" if modes <= GREY else "RGB"
    if size is not None:
        shape = (size, size) if isinstance(size, int) else size
        if min(shape) < 1:
            raise invalid("size", size, "must be 1 or more", "Correct it")
        return mode, shape
    if len(shapes) > 1:
        (first, one), (second, other) = list(shapes.items())[:2]
        raise FedsimError(
            f"{other} is {second[0]}x{second[1]}, {one} is {first[0]}x{first[1]} (height x width). "
            "Give a size that all pictures are resized to."
        )
    return mode, next(iter(shapes))


def _pixels(file: Path, mode: str, shape: tuple[int, int]) -> Tensor:
    """One file as uint8 [C, H, W]."""
    height, width = shape
    try:
        with _opened(file) as picture:
            converted = picture.convert(mode)
    except OSError as error:
        raise FedsimError(f"{file} cannot be read as an image ({error}). Repair or remove it.") from error
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BICUBIC)
    return as_pixels(converted)


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FedsimError(f"{file} cannot be read as an image ({error}). Repair or remove it.") from error

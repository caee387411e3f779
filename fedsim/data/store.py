"""The store: data sets on disk as ``NAME/{train,test}.safetensors``, opened by memory map.

A file holds ``images`` uint8 [N, C, H, W] and ``labels`` int64 [N]; its metadata hold ``classes`` (a JSON
list of names), ``source`` and ``licence``. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from fedsim.data.images import DataSet, Images, statistics
from fedsim.errors import FedsimError, invalid

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
STATISTICS = "statistics.json"


@dataclass(frozen=True)
class Origin:
    """Where a stored data set comes from and on what terms."""

    source: str
    licence: str


def store_root(root: Path | None = None) -> Path:
    """The folder of the store: ``root``, else ``$FEDSIM_DATA``, else ``~/.cache/fedsim``."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("FEDSIM_DATA") or Path.home() / ".cache" / "fedsim").expanduser()


def check_name(name: str) -> str:
    """The name, if a folder can be called that.

    Raises:
        FedsimError: it has other characters than letters, digits, ``_``, ``-`` and ``.``, or starts with a dot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise invalid("data", name, "not a name for a data set", "Use letters, digits, '_', '-' and '.'")
    return name


def stored_names(root: Path | None = None) -> list[str]:
    """Names of the data sets that are in the store with both splits, sorted."""
    folder = store_root(root)
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if all((f / f"{split}.safetensors").is_file() for split in SPLITS))


def open_stored(name: str, root: Path | None = None, *, fetchable: bool = False) -> DataSet:
    """A data set of the store, memory-mapped, with the statistics of its whole training split.

    Args:
        name: of its folder.
        root: of the store.
        fetchable: whether ``fedsim data fetch`` knows the name; for the message if it is missing.

    Raises:
        FedsimError: it is missing or a file is broken; the message names the file and the remedy.
    """
    folder = store_root(root) / check_name(name)
    for split in SPLITS:
        if not (folder / f"{split}.safetensors").is_file():
            get = (
                f"Run: fedsim data fetch {name}; or put" if fetchable else "Import it with: fedsim data import; or put"
            )
            raise FedsimError(f"data {name!r}: there is no {folder}/{split}.safetensors. {get} that file there.")
    train, test = (read_split(folder / f"{split}.safetensors") for split in SPLITS)
    mean, std = _known_statistics(folder, train.images)
    return DataSet(name, train, test, mean, std)


def read_split(path: Path) -> Images:
    """One file of the store, memory-mapped: pages are read when touched and shared between processes.

    Raises:
        FedsimError: the file is truncated or not in the format; the message names the file and the field.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("images", "labels")}
    except (SafetensorError, OSError) as error:
        raise FedsimError(f"{path} cannot be read ({error}). Delete it and fetch or import the data again.") from error
    try:
        classes = json.loads(metadata.get("classes", "null"))
    except json.JSONDecodeError:
        classes = None
    if not isinstance(classes, list) or not classes or not all(isinstance(entry, str) for entry in classes):
        raise FedsimError(f"{path}: the metadata have no 'classes', a JSON list of names. Import the data again.")
    try:
        return Images(tensors["images"], tensors["labels"], tuple(classes))
    except FedsimError as error:
        raise FedsimError(f"{path}: {error}") from error


def read_origin(path: Path) -> Origin:
    """What the metadata of one file say about source and licence."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return Origin(metadata.get("source", "not stated"), metadata.get("licence", "not stated"))


def write(name: str, train: Images, test: Images, origin: Origin, root: Path | None = None) -> Path:
    """Put a data set into the store, replacing one of the same name; the folder it is in.

    Each file is written beside its place and then renamed, so that a reader sees an old or a new file,
    never half of one.

    Raises:
        FedsimError: the splits do not fit together, or the folder cannot be written.
    """
    channels = train.images.shape[1]
    DataSet(name, train, test, (0.0,) * channels, (1.0,) * channels)  # refuses splits that do not fit
    folder = store_root(root) / check_name(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, images in (("train", train), ("test", test)):
            replace(folder / f"{split}.safetensors", encode(images, origin))
    except OSError as error:
        raise FedsimError(f"{folder} cannot be written ({error}). Set FEDSIM_DATA to a folder that can.") from error
    return folder


def encode(images: Images, origin: Origin) -> bytes:
    """The bytes of a file of the store; equal contents give equal bytes.

    safetensors writes metadata in an order that differs from run to run, so the header is sorted here.
    """
    metadata = {"classes": json.dumps(images.classes), "source": origin.source, "licence": origin.licence}
    tensors = {"images": images.images.contiguous(), "labels": images.labels.contiguous()}
    raw = to_bytes(tensors, metadata)
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format wants tensors on 8-byte boundaries
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(raw)[8 + length :]))


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _known_statistics(folder: Path, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the training split, from the note beside it if that belongs to this very file."""
    stat = (folder / "train.safetensors").stat()
    key = [stat.st_size, stat.st_mtime_ns]
    note = folder / STATISTICS
    with suppress(OSError, ValueError, KeyError, TypeError):  # an unreadable note is computed anew
        known = json.loads(note.read_text())
        if known["train"] == key and len(known["mean"]) == len(known["std"]) == images.shape[1]:
            return tuple(map(float, known["mean"])), tuple(map(float, known["std"]))
    mean, std = statistics(images)
    with suppress(OSError):  # a store that cannot be written costs the computation each time
        replace(note, json.dumps({"train": key, "mean": mean, "std": std}).encode())
    return mean, std

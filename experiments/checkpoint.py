"""Checkpoints: what a run needs to go on after its last finished round; written atomically, two kept."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from fedsim import state as states

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A finished round.

    Attributes:
        round: its number.
        arrays: the global arrays after it.
        strategy: what ``server.state.snapshot`` took.
        clients: what each client keeps between rounds, such as the remainder of a pruned update.
    """

    round: int
    arrays: Mapping[str, Tensor]
    strategy: list[Any]
    clients: Mapping[int, RecordDict] = field(default_factory=dict)


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; after a crash at any moment, the last whole one is still there."""
    final = folder / f"round-{checkpoint.round:06d}"
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    content = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
    states.save(content, unfinished / "state")
    for path in (*unfinished.iterdir(), unfinished):
        _to_disk(path)
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)
    _to_disk(folder)
    for old in _whole(folder)[:-KEPT]:
        shutil.rmtree(old)


def read_last(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or ``None`` if there is none.

    Raises:
        FedsimError: it is damaged.
    """
    found = _whole(folder)
    return Checkpoint(**states.load(found[-1] / "state")) if found else None


def _whole(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"round-\d{6,}", path.name))


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The folder that one run leaves behind: its configuration, its records, its pictures.

Records are JSON lines, appended as the run goes and synced to the disk with every call, so that a run
that is killed leaves all rounds it finished. A line that the kill cut short is ignored on reading and
removed by the next append.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tomli_w
from torch import Tensor

from fedsim.errors import FedsimError

Record = dict[str, Any]

LOCK = ".lock"
"""An empty file that the process of a run holds."""


class RunFolder:
    """The files of a run, by name, and how they are written and read.

    Get one by ``create`` (a new run) or ``open`` (one that is there).

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.toml"
        self.metrics = path / "metrics.jsonl"
        self.clients = path / "clients.jsonl"
        self.partition = path / "partition.jsonl"
        self.attacks = path / "attacks.jsonl"
        self.exposure = path / "exposure.jsonl"
        self.transcript = path / "transcript"
        self.pictures = path / "pictures"
        self.checkpoint = path / "checkpoint"
        self.report = path / "report.html"
        self._lock: BinaryIO | None = None

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A new run's folder; folders above it are made too, and an empty one is taken as it is.

        Raises:
            FedsimError: it holds a run already, is a file or lies below one, or cannot be written.
        """
        folder = cls(Path(path))
        if folder._holds_a_run():
            raise FedsimError(f"{path} holds a run already. Choose another --out, or remove it.")
        try:
            folder.pictures.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder.path):
                pass
        except (FileExistsError, NotADirectoryError) as error:
            raise FedsimError(
                f"{path} cannot be a folder: {error.filename} is a file. Choose another --out."
            ) from error
        except OSError as error:
            raise FedsimError(f"{path} cannot be written ({error.strerror}). Choose another --out.") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of a run that is there, finished or not.

        Raises:
            FedsimError: there is no run at this path.
        """
        folder = cls(Path(path))
        if not folder._holds_a_run():
            what = "is not a run" if folder.path.exists() else "does not exist"
            raise FedsimError(f"{path} {what}. Give the folder that fedsim run wrote (it has an experiment.toml).")
        return folder

    def hold(self) -> None:
        """Keep other processes from running in this folder, for as long as this object lives and its process does.

        The lock is the process's own and not its children's, and the system takes it back when the process dies.

        Raises:
            FedsimError: another process holds it.
        """
        self._lock = (self.path / LOCK).open("wb")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FedsimError(
                f"{self.path} is being written by another process. Wait for it to end, or choose another --out."
            ) from error

    def write_experiment(self, configuration: Mapping[str, Any]) -> None:
        """Write ``experiment.toml``; what is ``None`` is left out, as TOML has no such value."""
        write_atomically(self.experiment, tomli_w.dumps(_without_none(configuration)).encode())

    def read_experiment(self) -> Record:
        """The configuration as resolved and the versions; empty if the file is missing.

        Raises:
            FedsimError: the file is not TOML.
        """
        if not self.experiment.is_file():
            return {}
        try:
            return tomllib.loads(self.experiment.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FedsimError(
                f"{self.experiment} is not TOML ({error}). Correct it, or run the experiment again."
            ) from error

    def write_partition(self, counts: Sequence[Sequence[int]]) -> None:
        """Write ``partition.jsonl``: a line a client, its number and its examples of each class."""
        write_atomically(self.partition, _lines([{"client": row[0], "label_counts": list(row[1:])} for row in counts]))

    def read_partition(self) -> list[Record]:
        """The lines of ``partition.jsonl``."""
        return read(self.partition)

    def write_exposure(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``exposure.jsonl``: a line a client, over the whole run."""
        write_atomically(self.exposure, _lines(records))

    def read_exposure(self) -> list[Record]:
        """The lines of ``exposure.jsonl``."""
        return read(self.exposure)

    def append_metrics(self, *records: Mapping[str, Any]) -> None:
        """Add lines to ``metrics.jsonl``, one a round."""
        append(self.metrics, records)

    def append_client(self, *records: Mapping[str, Any]) -> None:
        """Add lines to ``clients.jsonl``, one a client and round; give a round's together."""
        append(self.clients, records)

    def append_attack(self, *records: Mapping[str, Any]) -> None:
        """Add lines to ``attacks.jsonl``, one a reconstruction."""
        append(self.attacks, records)

    def read_metrics(self) -> list[Record]:
        """The lines of ``metrics.jsonl``."""
        return read(self.metrics)

    def read_clients(self) -> list[Record]:
        """The lines of ``clients.jsonl``."""
        return read(self.clients)

    def read_attacks(self) -> list[Record]:
        """The lines of ``attacks.jsonl``."""
        return read(self.attacks)

    def rewind(self, round: int) -> None:
        """Forget all records of later rounds, which a run that resumes after ``round`` writes again."""
        self.exposure.unlink(missing_ok=True)  # it is of the whole run, and written at its end
        for path in (self.metrics, self.clients, self.attacks):
            kept = [record for record in read(path) if record.get("round", 0) <= round]
            if path.exists():
                write_atomically(path, _lines(kept))

    def save_picture(self, stem: str, png: bytes) -> str:
        """Save a PNG under ``pictures/`` and return its file name, for the ``picture`` of a record.

        Args:
            stem: what the picture shows, e.g. ``"dlg-round-1-client-7"``; odd characters become ``-``.
            png: the file's bytes.
        """
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") + ".png"
        self.pictures.mkdir(parents=True, exist_ok=True)
        write_atomically(self.pictures / name, png)
        return name

    def _holds_a_run(self) -> bool:
        return any(path.is_file() for path in (self.experiment, self.metrics, self.clients, self.attacks))


def append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add JSON lines to a file and wait until the disk has them.

    Numbers that are not finite become ``null``; tensors and NumPy values become lists and numbers.
    """
    with path.open("a+b") as file:
        _mend_tail(file)
        file.write(_lines(records))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """The records of a JSON-lines file; none if it is missing. A torn last line is ignored.

    Raises:
        FedsimError: a line other than the last is not a JSON object.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parsed(line)
        if record is None and number < len(lines):
            raise FedsimError(f"{path}, line {number}, is not a JSON object. Remove that line.")
        if record is not None:
            records.append(record)
    return records


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _mend_tail(file: BinaryIO) -> None:
    """End the file with a whole line: finish a last line that lacks only its end, remove a torn one."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    if _parsed(content[start:]) is None:
        file.truncate(start)
    else:
        file.write(b"\n")


def _parsed(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(
        json.dumps(_plain(record), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        for record in records
    ).encode()


def _plain(value: Any) -> Any:
    """The value as JSON knows it: floats finite or ``None``, arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _without_none(value: Any) -> Any:
    """Tables and lists without what is ``None``, paths as strings."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return str(value) if isinstance(value, Path) else value

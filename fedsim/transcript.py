"""What the server overheard, on disk: safetensors and JSON lines, safe to open whoever wrote them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim.errors import FedsimError, invalid
from fedsim.protocol import Arrays, Observation, TrainingPlan

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Entry:
    """One line of the index: an observation whose arrays are still on disk."""

    round: int
    client: int
    kind: str
    examples: int
    plan: dict[str, Any] | None
    sent: str
    received: str


class Transcript:
    """The observations of a run in a folder.

    The global arrays of a round are stored once, under a name made from their bytes. An observation is
    in the index only after its arrays are on disk, so a run that dies leaves whole observations.
    """

    def __init__(self, folder: Path, entries: list[Entry]) -> None:
        self.folder = folder
        self.entries = entries
        self._last_sent: tuple[Arrays, str] | None = None

    @classmethod
    def create(cls, folder: Path | str) -> Transcript:
        """An empty transcript in a new or empty folder.

        Raises:
            FedsimError: the folder holds a transcript already or cannot be written.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            raise invalid("transcript", str(folder), "holds a transcript already", "Choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / INDEX).touch()
        except OSError as error:
            raise invalid("transcript", str(folder), f"cannot be written ({error})", "Choose another folder") from error
        return cls(folder, [])

    @classmethod
    def open(cls, folder: Path | str) -> Transcript:
        """A transcript written before; a torn last line, left by a killed run, is ignored.

        Raises:
            FedsimError: there is no transcript, or its index is damaged.
        """
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise invalid(
                "transcript",
                str(folder),
                "there is no transcript here",
                "Record one: run with [wiretap] record = true, or append observations to Transcript.create(folder)",
            )
        lines = (folder / INDEX).read_text().split("\n")
        return cls(folder, [_entry(folder, number, line) for number, line in enumerate(lines[:-1], 1)])

    def append(self, observation: Observation) -> None:
        """Write an observation down; it can be passed to ``HonestButCurious`` as the observer."""
        sent = self._store_sent(observation.sent)
        received = f"received-{observation.round:06d}-{observation.client}.safetensors"
        _save(observation.received, self.folder / received)
        entry = Entry(
            round=observation.round,
            client=observation.client,
            kind=observation.kind,
            examples=observation.examples,
            plan=asdict(observation.plan) if observation.plan else None,
            sent=sent,
            received=received,
        )
        with (self.folder / INDEX).open("a") as index:
            index.write(json.dumps(asdict(entry)) + "\n")
        self.entries.append(entry)

    def rewind(self, round: int) -> None:
        """Forget the observations of later rounds, which a run that resumes after ``round`` hears again."""
        self.entries = [entry for entry in self.entries if entry.round <= round]
        unfinished = self.folder / f"{INDEX}.partial"
        unfinished.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in self.entries))
        unfinished.replace(self.folder / INDEX)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Observation]:
        return (self.read(entry) for entry in self.entries)

    def of_client(self, client: int) -> list[Observation]:
        """All observations of a client, in the order of rounds."""
        return [self.read(entry) for entry in self.entries if entry.client == client]

    def of_round(self, round: int) -> list[Observation]:
        """All observations of a round, in the order they came in."""
        return [self.read(entry) for entry in self.entries if entry.round == round]

    def read(self, entry: Entry) -> Observation:
        """An observation with its arrays.

        Raises:
            FedsimError: a file is missing or damaged.
        """
        return Observation(
            round=entry.round,
            client=entry.client,
            sent=_load(self.folder / entry.sent),
            received=_load(self.folder / entry.received),
            kind="gradient" if entry.kind == "gradient" else "model",
            examples=entry.examples,
            plan=TrainingPlan(**entry.plan) if entry.plan else None,
        )

    def _store_sent(self, arrays: Arrays) -> str:
        if self._last_sent is None or self._last_sent[0] is not arrays:
            name = f"sent-{_digest(arrays)}.safetensors"
            if not (self.folder / name).exists():
                _save(arrays, self.folder / name)
            self._last_sent = (arrays, name)
        return self._last_sent[1]


def _entry(folder: Path, number: int, line: str) -> Entry:
    try:
        entry = Entry(**json.loads(line))
        inside = all(Path(name).name == name for name in (entry.sent, entry.received))
    except (TypeError, ValueError) as error:
        raise FedsimError(
            f"{folder / INDEX}, line {number}: not an observation ({error}). Delete that line."
        ) from error
    if not inside:  # a transcript from somebody else must not make us read elsewhere
        raise FedsimError(f"{folder / INDEX}, line {number}: names a file outside the transcript. Delete that line.")
    return entry


def _digest(arrays: Arrays) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in arrays.items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _save(arrays: Arrays, path: Path) -> None:
    unfinished = path.with_suffix(".partial")
    order = json.dumps(list(arrays))  # safetensors sorts by size; the order of layers matters to an attack
    save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, unfinished, {"order": order})
    unfinished.replace(path)


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            order = json.loads((file.metadata() or {}).get("order", "null")) or sorted(tensors)
        return {name: tensors[name] for name in order}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise FedsimError(f"{path}: missing or damaged ({error}). Record the run again.") from error


def size_of(arrays: Arrays) -> int:
    """Bytes of the numbers in the arrays."""
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in arrays.values())

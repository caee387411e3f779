"""What a run folder says, read tolerantly: records may lack fields, and rounds may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.report.pictures import Picture, at_scale, embed
from experiments.run_folder import Record, RunFolder

SAMPLES = "samples"
"""The picture of what the final global model draws, under ``pictures/``."""


@dataclass(frozen=True)
class Victim:
    """One reconstruction: a line of ``attacks.jsonl``.

    Numbers that the line lacks, or that were not finite, are ``None``. ``counted`` is the PSNR that
    medians use: an attack that gave nothing counts as the grey guess, so that failures weigh too.
    """

    attack: str
    round: int
    client: int
    examples: int
    psnr: float | None
    mse: float | None
    ssim: float | None
    lpips: float | None
    label_accuracy: float | None
    baseline_psnr: float | None
    mean_colour_psnr: float | None
    loss: float | None
    iterations: int | None
    seconds: float | None
    stopped_by: str
    labels_true: tuple[str, ...]
    labels_found: tuple[str, ...]
    psnr_each: tuple[float | None, ...]
    failed_images: int
    grants: tuple[str, ...] | None
    picture_name: object

    @property
    def counted(self) -> float:
        """PSNR in decibels; the grey guess's where there is none."""
        return self.psnr if self.psnr is not None else self.baseline_psnr or 0.0

    @property
    def failed(self) -> bool:
        """Whether an image, or all, had to be scored as the grey guess."""
        return self.psnr is None or self.failed_images > 0

    @property
    def labels(self) -> list[tuple[str, str, float | None]]:
        """For each image its true label, the label found (empty if none) and its PSNR."""
        rows = []
        for i, true in enumerate(self.labels_true):
            found = self.labels_found[i] if i < len(self.labels_found) else ""
            rows.append((true, found, self.psnr_each[i] if i < len(self.psnr_each) else None))
        return rows


@dataclass(frozen=True)
class Run:
    """Everything the report shows.

    Attributes:
        experiment: the tables of ``experiment.toml``.
        metrics: the lines of ``metrics.jsonl``, in the order of rounds.
        clients: the lines of ``clients.jsonl``.
        victims: by round, then attack in the order of the file, then client.
        classes: their names, as far as they are known.
        pictures: the folder with the pictures.
        partition: the lines of ``partition.jsonl``.
        fallback_name: name of the run if the configuration has none.
    """

    experiment: Record
    metrics: tuple[Record, ...]
    clients: tuple[Record, ...]
    victims: tuple[Victim, ...]
    classes: tuple[str, ...]
    pictures: Path
    fallback_name: str
    partition: tuple[Record, ...] = ()

    @property
    def attacks(self) -> list[str]:
        """Labels of the attacks, in the order in which they first struck."""
        return list(dict.fromkeys(victim.attack for victim in self.victims))

    @property
    def attacked_rounds(self) -> list[int]:
        """Rounds with a victim, in order."""
        return sorted({victim.round for victim in self.victims})

    def table(self, name: str) -> Mapping[str, Any]:
        """A table of the configuration, empty if it is missing."""
        found = self.experiment.get(name)
        return found if isinstance(found, dict) else {}

    def tables(self, name: str) -> list[Mapping[str, Any]]:
        """An array of tables of the configuration, empty if it is missing."""
        found = self.experiment.get(name)
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    def of(self, attack: str | None = None, round: int | None = None) -> list[Victim]:
        """The victims of an attack, of a round, or of both."""
        return [v for v in self.victims if attack in (None, v.attack) and round in (None, v.round)]

    def series(self, key: str) -> list[tuple[int, float]]:
        """A metric over rounds, where it was measured."""
        pairs = ((integer(record, "round"), number(record, key)) for record in self.metrics)
        return [(when, value) for when, value in pairs if when is not None and value is not None]

    def picture(self, victim: Victim, *, enlarge: float = 1.0) -> Picture | None:
        """The victim's strip, if it is there."""
        picture = embed(self.pictures, victim.picture_name)
        return at_scale(picture, victim.examples or len(victim.labels_true) or 1, enlarge=enlarge) if picture else None

    def samples(self) -> Picture | None:
        """What the final global model draws, if it draws anything."""
        shape = self.table("data_set").get("input_shape")
        picture = embed(self.pictures, f"{SAMPLES}.png")
        if picture is None or not isinstance(shape, list):
            return None
        return at_scale(picture, picture.width // int(shape[-1]))


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        FedsimError: there is no run, or a file in it is damaged before its last line.
    """
    folder = RunFolder.open(path)
    experiment = folder.read_experiment()
    described = experiment.get("data_set")
    names = described.get("classes") if isinstance(described, dict) else None
    classes = tuple(str(name) for name in names) if isinstance(names, list) else ()
    attacks = folder.read_attacks()
    order = {str(label): i for i, label in enumerate(dict.fromkeys(record.get("attack") for record in attacks))}
    victims = sorted((_victim(r, classes) for r in attacks), key=lambda v: (v.round, order[v.attack], v.client))
    return Run(
        experiment=experiment,
        metrics=tuple(sorted(folder.read_metrics(), key=lambda record: integer(record, "round") or 0)),
        clients=tuple(folder.read_clients()),
        victims=tuple(victims),
        classes=classes,
        pictures=folder.pictures,
        fallback_name=path.resolve().name,
        partition=tuple(folder.read_partition()),
    )


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or ``None``."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def integer(record: Mapping[str, Any], key: str) -> int | None:
    """A whole number of a record, or ``None``."""
    value = number(record, key)
    return None if value is None else int(value)


def middle(values: list[float]) -> float | None:
    """The median, or ``None`` of nothing."""
    return median(values) if values else None


def class_name(label: object, classes: tuple[str, ...]) -> str:
    """The name of a class by its number; empty for no class."""
    if isinstance(label, bool) or not isinstance(label, int):
        return str(label)
    if label < 0:
        return ""
    return classes[label] if label < len(classes) else f"class {label}"


def _victim(record: Record, classes: tuple[str, ...]) -> Victim:
    def items(key: str) -> list[Any]:
        value = record.get(key)
        return value if isinstance(value, list) else []

    truth = tuple(class_name(label, classes) for label in items("labels_true"))
    grants = record.get("grants")
    return Victim(
        attack=str(record.get("attack")),
        round=integer(record, "round") or 0,
        client=integer(record, "client") or 0,
        examples=integer(record, "examples") or len(truth),
        **{key: number(record, key) for key in ("psnr", "mse", "ssim", "lpips", "label_accuracy", "loss", "seconds")},
        baseline_psnr=number(record, "baseline_psnr"),
        mean_colour_psnr=number(record, "mean_colour_psnr"),
        iterations=integer(record, "iterations"),
        stopped_by=str(record.get("stopped_by") or ""),
        labels_true=truth,
        labels_found=tuple(class_name(label, classes) for label in items("labels_found")),
        psnr_each=tuple(number({"value": value}, "value") for value in items("psnr_each")),
        failed_images=integer(record, "failed_images") or 0,
        grants=tuple(str(grant) for grant in grants) if isinstance(grants, list) else None,
        picture_name=record.get("picture"),
    )

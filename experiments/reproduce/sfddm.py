"""Few steps by distillation: ``python -m experiments.reproduce.sfddm --out docs/results``.

The moving average of a federation's diffusion model is the teacher. Students with few of its steps, taught its answers
(SFDDM) or where its trajectory leads, are compared with it from the same starts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.distilling import teacher_of
from experiments.experiment import Experiment
from experiments.reproduce.long_federation import FOLDER, federation
from experiments.reproduce.sfddm_cells import (
    CONSOLE,
    FIRST,
    POSITIONS,
    Cell,
    after_one_epoch,
    drawn,
    keep,
    kept,
    sampler,
    starts,
    students,
    teachers,
)
from experiments.reproduce.sfddm_page import write_page, write_picture
from server.features import classifier_features, scaled
from server.quality import Quality

NAME = "sfddm"
FEW = (10, 100, 4)
"""Steps of the students: 1 % and 10 % of the teacher's, and fewer still."""
BETWEEN = 40
"""Steps of the teacher beside those: about what it walks for a student of its trajectory."""
CHEAP = 10
"""Steps up to which all starts are drawn from."""
AWAY = 3
"""Positions from which on a sample of an interpolation should be farther than its own."""

Record = dict[str, Any]


def main(given: Sequence[str] | None = None) -> None:
    """Train the federation if it is missing, draw and teach what is missing, then write the page."""
    options = _options(given)
    path = options.out / f"{NAME}.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not options.page:
        torch.set_num_threads(1)
        federation(options.run)
        _missing(options, path, records)
        samples = {record["key"]: kept(_samples(options, record["key"])) for record in records}
        write_picture(options.out / f"{NAME}.png", samples, records)
    write_page(options.out, NAME, records)


def _missing(options: argparse.Namespace, path: Path, records: list[Record]) -> None:
    """Do the cells that have no record, and write each down at once, with the pictures of a few starts."""
    experiment, task, _ = teacher_of(options.run)
    few, total = tuple(options.steps), len(task.goal.schedule)
    images = len(experiment.validation or experiment.test)
    cells = [*teachers(total, (*few, BETWEEN)), *students(few, options.updates, images=images)]
    judge = _judge(experiment)
    for cell in cells:
        if any(record["key"] == cell.key() for record in records):
            continue
        record = measured(cell, total, judge, options, experiment)
        record |= {"rounds": experiment.config.training.rounds, "own_images": images, "total": total}
        records.append(record)
        with path.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        CONSOLE.print(f"{cell.key()}: FD {record['frechet_distance']:.2f}, {record['seconds']:.3f} s an image")


def measured(cell: Cell, total: int, judge: Quality, options: argparse.Namespace, experiment: Experiment) -> Record:
    """The record of a cell; its samples are kept.

    Args:
        cell: who draws.
        total: steps of the teacher, whose samples by all of them are there, or are these.
        judge: of samples.
        options: the folders, and the numbers of starts.
        experiment: of the run.
    """
    start = starts(options.many, experiment.data.input_shape, experiment.config.seed)
    once = start[: options.starts]
    first = after_one_epoch(cell, options.run, options.models, start)
    sample = sampler(cell, options.run, options.models)
    found, seconds = drawn(sample, torch.cat([once, start[-POSITIONS:]]))
    own = keep(found, _samples(options, cell.key()))
    reference, same = (kept(_samples(options, f"teacher-{steps}")) for steps in (total, cell.steps))
    record: Record = {
        "key": cell.key(),
        "steps": cell.steps,
        "lessons": None if cell.lessons is None else cell.lessons.described() | {"epochs": cell.lessons.epochs},
        "starts": options.starts,
        "psnr": _rounded(psnr(own[: options.starts], reference[: options.starts])),
        "psnr_as_few": _rounded(psnr(own[: options.starts], same[: options.starts])),
        "first_psnr": None if first is None else _rounded(psnr(first, reference[: len(first)])),
        "in_order": in_order(own[-POSITIONS:], reference[-POSITIONS:]),
        **judge(own[: options.starts]),
        "many": None,
        "seconds": round(seconds, 5),
    }
    if cell.steps <= CHEAP and options.many > options.starts:
        rest, _ = drawn(sample, start[options.starts : options.many])
        record["many"] = {"starts": options.many, **judge(torch.cat([own[: options.starts], rest]))}
    return record


def _samples(options: argparse.Namespace, key: str) -> Path:
    return Path(options.models) / "samples" / f"{key}.safetensors"


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Decibels of each image in [0, 1], at most 100, [N]."""
    error = (images - reference).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def in_order(images: Tensor, reference: Tensor) -> int:
    """How many samples of a line of starts are closer to the reference's at their own place than three or more off."""
    apart = torch.cdist(images.flatten(1), reference.flatten(1))
    places = torch.arange(len(images))
    far = (places[:, None] - places).abs() >= AWAY
    nearest = apart.masked_fill(~far, float("inf")).min(1).values
    return int((apart.diagonal() < nearest).sum())


def _judge(experiment: Experiment) -> Quality:
    features = classifier_features(experiment.data.train, experiment.config.seed)
    return Quality(features, scaled(experiment.test.images[:1_000]))


def _rounded(numbers: Tensor) -> list[float]:
    return [round(float(number), 3) for number in numbers]


def _options(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--run", type=Path, default=FOLDER, help="folder of the federation")
    parser.add_argument("--models", type=Path, default=Path("runs") / NAME, help="folder of students and samples")
    parser.add_argument("--steps", type=int, nargs="+", default=list(FEW), help="of the students")
    parser.add_argument("--updates", type=int, default=256, help="of each student")
    parser.add_argument("--starts", type=int, default=256, help="from which all draw")
    parser.add_argument("--many", type=int, default=1_024, help="from which those of few steps draw")
    parser.add_argument("--page", action="store_true", help="draw nothing, write the page of what is there")
    options = parser.parse_args(given)
    if not FIRST <= options.starts <= options.many:
        parser.error(f"--starts must be {FIRST} or more, and --many as many or more")
    return options


if __name__ == "__main__":
    main()

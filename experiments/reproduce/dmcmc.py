"""Few calls of a network, with a Markov chain and without: ``python -m experiments.reproduce.dmcmc``.

Images of the model that ten clients have trained together, by DDPM, DDIM and Heun's method from pure noise, or from
where a chain over images and noise levels is: Frechet distance, precision and recall against calls of the network an
image.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.reproduce.dmcmc_cells import STEP_SIZE, Cell, cells, draw, likeness, settings
from experiments.reproduce.dmcmc_models import Model, classifier_loss, in_range, opened, own_images
from experiments.reproduce.dmcmc_page import name, of_step_size, page
from experiments.reproduce.dmcmc_picture import curves, gallery
from experiments.reproduce.long_federation import FOLDER, federation
from server.features import classifier_features, scaled
from server.quality import Quality

CONSOLE = Console(stderr=True)
NAME = "dmcmc"
SAMPLES, SHOWN, SHOWN_CALLS = "samples.safetensors", 16, 10

Record = dict[str, Any]


def main() -> None:
    """Measure what is not there yet, cell by cell, and write page and figures of what is there."""
    options = _options()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{NAME}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not options.page:
        federation(options.run)
        measure(options, path, done)
    (options.out / f"{NAME}.md").write_text(page(done, options.step_size))
    curves(of_step_size(done, options.step_size), options.out / f"{NAME}.png")
    gallery(shown(options.models), options.out / "images" / f"{NAME}.png")


def measure(options: argparse.Namespace, path: Path, done: list[Record]) -> None:
    """Add to the file, and to what is done, a line for each cell that is missing.

    Args:
        options: of the command line.
        path: of the file, JSON lines.
        done: what it holds.
    """
    chain = Cell("heun", 10, chain=True, step_size=options.step_size, outputs=options.outputs)
    todo = [*settings(), *cells(chain, options.seeds)]
    known = [record["cell"] for record in done]
    missing = [cell for cell in todo if cell.key() not in known]
    if not missing:
        return
    model = opened(options.run, options.models / "levels.safetensors", steps=options.training)
    judges = judges_of(model, options.images)
    if not any(record["cell"] is None for record in done):
        _add(path, done, facts(model, judges["test"], options))
    for cell in missing:
        record, images = measured(cell, model, judges[cell.judge], options.images)
        _add(path, done, record)
        told = f"{name(record)}, {cell.calls} calls, seed {cell.seed}: {record['frechet_distance']:.2f}"
        CONSOLE.print(f"{told}, {record['seconds']:.0f} s")
        if cell.seed == 0 and cell.calls == SHOWN_CALLS and cell.judge == "test":
            save_file({**shown(options.models), name(record): images}, options.models / SAMPLES)


def measured(cell: Cell, model: Model, judge: Quality, count: int) -> tuple[Record, Tensor]:
    """The record of a cell, and the first image of each of a few chains or starts."""
    made = draw(cell, model, count)
    record = {
        "cell": cell.key(),
        "images": count,
        "calls": made.calls,
        "warm_up_calls": made.warm_up_calls,
        **judge(made.images),
        "seconds": round(made.seconds, 2),
        "warm_up_seconds": round(made.warm_up_seconds, 2),
        "level": made.level,
        "likeness": likeness(made.images, cell.outputs) if cell.chain else None,
    }
    return record, made.images[:SHOWN]


def shown(folder: Path) -> dict[str, Tensor]:
    """Some images of each way to draw, those that have been kept."""
    return load_file(folder / SAMPLES) if (folder / SAMPLES).is_file() else {}


def judges_of(model: Model, count: int) -> Mapping[str, Quality]:
    """Quality against test images and against the server's own, by features of one classifier."""
    experiment = model.experiment
    features = classifier_features(experiment.data.train, experiment.config.seed)
    real = {"test": experiment.test.images, "validation": own_images(experiment)}
    return {name: Quality(features, scaled(images[:count])) for name, images in real.items()}


def facts(model: Model, judge: Quality, options: argparse.Namespace) -> Record:
    """What does not depend on the sampler: the run, the classifier, and how real images are judged."""
    experiment = model.experiment
    levels, test = model.joint.levels, experiment.test.images
    return {
        "cell": None,
        "rounds": experiment.config.training.rounds,
        "clients": experiment.config.data.clients,
        "steps": len(model.schedule),
        "highest": float(levels[0]),
        "levels": len(levels),
        "own_images": len(own_images(experiment)),
        "training": options.training,
        "classifier_loss": classifier_loss(model.joint.classify, in_range(test[: options.images]), levels),
        "images": options.images,
        **judge(scaled(test[options.images : 2 * options.images])),
    }


def _add(path: Path, done: list[Record], record: Record) -> None:
    done.append(record)
    with path.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def _options(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--run", type=Path, default=FOLDER, help="folder of the federation")
    parser.add_argument("--models", type=Path, default=Path("runs") / NAME, help="folder of the classifier of levels")
    parser.add_argument("--training", type=int, default=3_000, help="steps of training of that classifier")
    parser.add_argument("--images", type=int, default=1_000, help="drawn in each cell, and real ones to compare with")
    parser.add_argument("--seeds", type=int, default=3, help="of each way and number of calls")
    parser.add_argument("--step-size", type=float, default=STEP_SIZE, help="of the chain")
    parser.add_argument("--outputs", type=int, default=5, help="images of each chain")
    parser.add_argument("--page", action="store_true", help="draw nothing, write the page of what is there")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()

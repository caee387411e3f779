"""Does favouring Mavericks expose them? ``python -m experiments.reproduce.exposure --workers 2``.

One exclusive Maverick (``experiments/configs/maverick-study.toml``) and FedSGD on batches of four, in which gradients
give pictures away while the network is young. Whoever is chosen in an attacked round is attacked inside the protocol;
what came of it for each client is the run's exposure ledger.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.compare.grid import Cell, Job, grid, jobs
from experiments.compare.records import outcome
from experiments.compare.running import finished
from experiments.report.exposure import guessed_labels
from experiments.reproduce.exposure_page import write_page
from experiments.reproduce.mavericks import APPRAISED, BY_VALUE, CONFIG, mavericks
from experiments.reproduce.studies import arguments, carry_out
from experiments.run_folder import RunFolder

NAME = "exposure"
SELECTORS = ("uniform", "fedemd", "shapley", "by_examples", "fedfast", "greedyfed")
ATTACKED = (*range(1, 11), 15, 20, 30, 50, 100, 200)
"""Rounds: most of them early, when gradients leak most."""

CHANGES = (
    "model.width=16",
    "model.activation=gelu",
    "training.algorithm=fedsgd",
    "training.batch_size=4",
    "training.learning_rate=0.003",
    "training.momentum=0.0",
    'training.strategy={ name = "fedsgd", optimiser = "adam" }',
    "training.evaluate_every=10",
)


def main() -> None:
    """Run what is missing, and write records, tables and figure of what is there."""
    options = arguments(__doc__ or "", NAME, _configure)
    todo = planned(options.runs, options.seeds, options.rounds, options.iterations, options.set)
    carry_out(todo, options)
    records = [record for job in todo if finished(job.folder) for record in exposed(job)]
    options.out.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    (options.out / f"{NAME}.jsonl").write_text("".join(lines))
    write_page(options.out, NAME, records, iterations=options.iterations)


def planned(runs: Path, seeds: int, rounds: int, iterations: int, changes: Sequence[str] = ()) -> list[Job]:
    """The runs, seed by seed over the selectors.

    Raises:
        FedsimError: a change that is no key of the configuration, or does not fit it.
    """
    when = [number for number in ATTACKED if number <= rounds]
    attack = f'{{ name = "inverting_gradients", rounds = {when}, iterations = {iterations}, lpips = false }}'
    common = [*CHANGES, f"training.rounds={rounds}", f"attacks=[{attack}]"]
    cells: list[Cell] = []
    for selector in SELECTORS:
        appraised = [APPRAISED] if selector in BY_VALUE else []
        cells += grid(CONFIG, [f"selection.name={selector}"], seeds, [*common, *appraised, *changes])
    return jobs(cells, runs)


def exposed(job: Job) -> Iterator[dict[str, Any]]:
    """A record a client: its line in the ledger, and the scores of each attack on it."""
    own, folder, accuracy = mavericks(job.experiment), RunFolder(job.folder), outcome(job).final
    attacks, classes = folder.read_attacks(), len(folder.read_experiment()["data_set"]["classes"])
    for line in folder.read_exposure():
        victims = [record for record in attacks if record["client"] == line["client"]]
        yield {
            "selector": job.experiment.config.selection.name,
            "seed": job.seed,
            "accuracy": accuracy,
            "client": line["client"],
            "maverick": line["client"] in own,
            "chosen": line["chosen"],
            "best": _rounded(line["psnr"]),
            "best_grey": _rounded(line["baseline_psnr"]),
            "recovered": line["recovered"],
            "rounds": [victim["round"] for victim in victims],
            "psnr": [_rounded(victim["psnr"]) for victim in victims],
            "grey": [_rounded(victim["baseline_psnr"]) for victim in victims],
            "labels": [victim["label_accuracy"] for victim in victims],
            "guess": [guessed_labels(victim["labels_true"], classes) for victim in victims],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=6, help="runs of each selector")
    parser.add_argument("--rounds", type=int, default=200, help="of each run")
    parser.add_argument("--iterations", type=int, default=200, help="of each attack")


if __name__ == "__main__":
    main()

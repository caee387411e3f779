"""Who should be chosen where one client owns a class: ``python -m experiments.reproduce.mavericks --workers 2``.

The layouts of *Maverick Matters* (Huang et al., PAKDD 2023, arXiv:2106.10734): 50 clients, 5 a round, 200 rounds. Every
run is an ordinary run folder under ``--runs``, and one that is cut off goes on where it stopped. Runs go seed by seed
over the selectors, so that what is there is paired at any time; ``--page`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.compare.grid import Cell, Job, grid, jobs
from experiments.compare.records import outcome
from experiments.experiment import Experiment
from experiments.reproduce.mavericks_page import MAIN, write_page
from experiments.reproduce.mavericks_records import check_alike
from experiments.reproduce.studies import arguments, carry_out
from experiments.run_folder import RunFolder, read

NAME = "mavericks"
CONFIG = Path(__file__).parents[1] / "configs" / "maverick-study.toml"

BY_VALUE = ("shapley", "greedyfed", "s_fedavg")
"""Selectors that go by what clients contributed: exact Shapley values of the round."""

APPRAISED = 'contribution={ name = "exact" }'
OTHERS = ("s_fedavg", "power_of_choice", "oort", "tifl", "fedfast", "afl", "by_examples")


@dataclass(frozen=True)
class Part:
    """Selectors compared on one layout.

    Attributes:
        layout: its name, and the name of its folder.
        changes: ``key=value`` of the study's configuration.
        selectors: who is compared; ``uniform`` is what the others are compared with.
        main: whether it is over many seeds.
    """

    layout: str
    changes: tuple[str, ...] = ()
    selectors: tuple[str, ...] = MAIN
    main: bool = False


def _partition(**parameters: Any) -> str:
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in parameters.items())
    return f'data.partition={{ name = "mavericks", {written} }}'


PARTS = {
    "main": Part("one_exclusive", main=True),
    "others": Part("one_exclusive", selectors=OTHERS),
    "two_exclusive": Part("two_exclusive", (_partition(mavericks=2, owned=[0, 1]),)),
    "three_exclusive": Part("three_exclusive", (_partition(mavericks=3, owned=[0, 1, 2]),)),
    "three_shared": Part("three_shared", (_partition(mavericks=3, owned=[1], shared=True),)),
    "two_shared": Part("two_shared", (_partition(mavericks=2, owned=[1], shared=True),)),
    "cifar10": Part("cifar10", ("data.name=cifar10", "model.width=16")),
    "fedsgd": Part(
        "fedsgd",
        (
            "training.algorithm=fedsgd",
            "training.batch_size=full",
            "training.learning_rate=0.01",
            "training.momentum=0.0",
            'training.strategy={ name = "fedsgd", optimiser = "adam" }',
        ),
    ),
}
"""In the order in which they run."""


def main() -> None:
    """Run what is missing, part by part, and write the page after each."""
    options = arguments(__doc__ or "", NAME, _configure)
    for name in options.parts:
        part = PARTS[name]
        todo = planned(part, options.runs, options.seeds if part.main else options.few, options.set)
        check_settings(options.out, part.layout, todo, options.set)
        carry_out(todo, options)
        remember(options.out, part.layout, todo, options.set)
        write_page(options.out, NAME, read(options.out / f"{NAME}.jsonl"))


def planned(part: Part, runs: Path, seeds: int, changes: Sequence[str] = ()) -> list[Job]:
    """The runs of a part, seed by seed.

    Raises:
        FedsimError: a change that is no key of the configuration, or does not fit it.
    """
    cells: list[Cell] = []
    for selector in part.selectors:
        appraised = [APPRAISED] if selector in BY_VALUE else []
        cells += grid(CONFIG, [f"selection.name={selector}"], seeds, [*part.changes, *appraised, *changes])
    return jobs(cells, runs / part.layout)


def check_settings(out: Path, layout: str, todo: Sequence[Job], changes: Sequence[str] = ()) -> None:
    """Refuse runs that could not be compared with those of the layout that are written down.

    Raises:
        FedsimError: they differ in their rounds or changes.
    """
    planned_ones = [{"layout": layout, "total": _total(job), "changes": list(changes)} for job in todo]
    check_alike(layout, [*read(out / f"{NAME}.jsonl"), *planned_ones])


def remember(out: Path, layout: str, done: Sequence[Job], changes: Sequence[str] = ()) -> None:
    """Put what the runs of a layout left into ``mavericks.jsonl``, in place of what stood there of the same runs."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.jsonl"
    records = {_key(record): record for record in read(path)}
    found = [_record(layout, job, changes) for job in done if RunFolder(job.folder).metrics.is_file()]
    records |= {_key(record): record for record in found}
    layouts = list(dict.fromkeys(part.layout for part in PARTS.values()))
    order = [*MAIN, *OTHERS]
    ranked = sorted(records.values(), key=lambda r: (layouts.index(r["layout"]), order.index(r["selector"]), r["seed"]))
    path.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in ranked))


def mavericks(experiment: Experiment) -> set[int]:
    """The clients that own a class: the last ones, as the partition deals them out."""
    clients = experiment.config.data.clients
    return set(range(clients - int(experiment.config.data.partition.parameters["mavericks"]), clients))


def _key(record: dict[str, Any]) -> tuple[str, str, int]:
    return record["layout"], record["selector"], record["seed"]


def _total(job: Job) -> int:
    return job.experiment.config.training.rounds


def _record(layout: str, job: Job, changes: Sequence[str]) -> dict[str, Any]:
    found, own = outcome(job), mavericks(job.experiment)
    metrics = RunFolder(job.folder).read_metrics()
    return {
        "layout": layout,
        "selector": job.experiment.config.selection.name,
        "seed": job.seed,
        "total": _total(job),
        "changes": list(changes),
        "finished": found.finished,
        "last": found.last,
        "rounds": list(found.accuracies),
        "accuracies": [round(value, 5) for value in found.accuracies.values()],
        "mavericks": [len(own & set(m["clients"])) for m in metrics if m["round"]],
        "seconds": round(found.seconds, 1),
    }


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", type=int, default=13, help="of the main part")
    parser.add_argument("--few", type=int, default=2, help="seeds of the other parts")


if __name__ == "__main__":
    main()

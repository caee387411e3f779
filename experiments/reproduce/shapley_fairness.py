"""Is a Maverick's Shapley value fair? ``python -m experiments.reproduce.shapley_fairness --workers 2``.

Uniform selection with one exclusive Maverick (``experiments/configs/maverick-study.toml``), exact values of every
round. The study finds that Mavericks are valued below the others early and like them later; its code takes the worth of
nobody for 0. What it would have plotted follows from the same runs: each value is then v({}) / m higher.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from experiments.compare.grid import Job, grid, jobs
from experiments.compare.running import check_begun, finished, run_all
from experiments.reproduce.mavericks import CONFIG, mavericks
from experiments.reproduce.shapley_fairness_page import write_page
from experiments.run_folder import RunFolder

NAME = "shapley-fairness"
CONSOLE = Console()
METRICS = ("accuracy", "loss")
CHANGES = ("data.validation_size=1000", 'contribution={ name = "exact" }')


def main() -> None:
    """Run what is missing, and write records, tables and figure of what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each metric")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of all runs")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is there")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    todo = planned(options.runs, options.seeds, options.set)
    if not options.page:
        check_begun(todo)
        for folder, why in run_all(todo, options.workers, quiet=False).items():
            CONSOLE.print(f"{folder} failed: {why}", markup=False)
    records = [record for job in todo if finished(job.folder) for record in appraised(job)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NAME}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_page(options.out, NAME, records)


def planned(runs: Path, seeds: int, changes: Sequence[str] = ()) -> list[Job]:
    """The runs, seed by seed over the metrics.

    Raises:
        FedsimError: a change that is no key of the configuration, or does not fit it.
    """
    varied = f"contribution.metric={','.join(METRICS)}"
    return jobs(grid(CONFIG, [varied], seeds, [*CHANGES, *changes]), runs)


def appraised(job: Job) -> Iterator[dict[str, Any]]:
    """A record for each Maverick in each round: its value, the others', and what nobody and everybody were worth."""
    own = mavericks(job.experiment)
    folder = RunFolder(job.folder)
    worth = {m["round"]: (m["utility_before"], m["utility_after"]) for m in folder.read_metrics() if m["round"]}
    rounds: dict[int, dict[int, float]] = {}
    for line in folder.read_clients():
        if line["value"] is not None:
            rounds.setdefault(line["round"], {})[line["client"]] = line["value"]
    contribution = job.experiment.config.contribution
    for number, values in rounds.items():
        ordinary = [value for client, value in values.items() if client not in own]
        for client in own & set(values) if ordinary else ():
            before, after = worth[number]
            yield {
                "metric": contribution.metric if contribution else None,
                "seed": job.seed,
                "round": number,
                "value": values[client],
                "others": mean(ordinary),
                "clients": len(values),
                "rank": 1 + sum(other > values[client] for other in ordinary),
                "before": before,
                "after": after,
            }


if __name__ == "__main__":
    main()

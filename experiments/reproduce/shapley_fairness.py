"""Is a Maverick's Shapley value fair? ``python -m experiments.reproduce.shapley_fairness --workers 2``.

Uniform selection with one exclusive Maverick (``experiments/configs/maverick-study.toml``), exact values of every
round. The study finds that Mavericks are valued below the others early and like them later; its code takes the worth of
nobody for 0. What it would have plotted follows from the same runs: each value is then v({}) / m higher.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.compare.grid import Job, grid, jobs
from experiments.compare.running import finished
from experiments.reproduce.mavericks import CONFIG, mavericks
from experiments.reproduce.shapley_fairness_page import write_page
from experiments.reproduce.studies import arguments, carry_out
from experiments.run_folder import RunFolder

NAME = "shapley-fairness"
METRICS = ("accuracy", "loss")
CHANGES = ("data.validation_size=1000", 'contribution={ name = "exact" }')


def main() -> None:
    """Run what is missing, and write records, tables and figure of what is there."""
    options = arguments(__doc__ or "", NAME, _configure)
    todo = planned(options.runs, options.seeds, options.set)
    carry_out(todo, options)
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


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5, help="runs of each metric")


if __name__ == "__main__":
    main()

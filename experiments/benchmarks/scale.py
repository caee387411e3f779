"""What the number of clients costs: start-up, seconds a round, memory."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks import tables
from experiments.benchmarks.contender import Entry
from experiments.benchmarks.turns import Measured, Part
from experiments.benchmarks.workloads import Workload


def parts(workload: Workload, numbers: Sequence[int], workers: int) -> list[Part]:
    """Fedsim's ``local`` engine over each number of clients, 40 images a client whatever their number."""
    return [
        Part(
            str(number),
            Entry(f"{number:,} clients", "experiments.benchmarks.engine:Engine", {"workers": workers}),
            workload.over(number),
        )
        for number in numbers
    ]


def markdown(runs: Sequence[Sequence[Measured]]) -> str:
    """A row a number of clients: medians over repeats, and beside them the difference from the first row.

    Args:
        runs: for each repeat, what was measured for each number of clients.
    """
    titles = ["", "start-up s", "more", "ms a round", "ratio", "peak MB", "more"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for i, first in enumerate(runs[0]):
        cells = [
            first.title,
            *_pair(runs, i, lambda found: found.startup, "{:.2f}", "{:+.2f}"),
            *_ratio(runs, i),
            *_pair(runs, i, lambda found: found.farewell.peak_mb if found.farewell else None, "{:.0f}", "{:+.0f}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    problems = {f"NOT MEASURED to the end: {m.title}: {m.problem}." for run in runs for m in run if m.problem}
    return "\n".join([*lines, "", *sorted(problems)]).rstrip() + "\n"


def write(out: Path, name: str, settings: dict[str, Any], runs: Sequence[Sequence[Measured]]) -> None:
    """Write ``NAME.json`` with every figure, and ``NAME.md``."""
    out.mkdir(parents=True, exist_ok=True)
    measured = [[asdict(found) for found in run] for run in runs]
    results = {"machine": tables.machine(), "settings": settings, "repeats": measured}
    (out / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / f"{name}.md").write_text(markdown(runs))


def _pair(
    runs: Sequence[Sequence[Measured]], i: int, figure: Callable[[Measured], float | None], shown: str, more: str
) -> tuple[str, str]:
    """Median of a figure, and the median of its difference from the first row's in the same repeat."""
    pairs = [(mine, first) for run in runs if (mine := figure(run[i])) and (first := figure(run[0]))]
    if not pairs:
        return "-", "-"
    return shown.format(statistics.median(mine for mine, _ in pairs)), more.format(
        statistics.median(mine - first for mine, first in pairs)
    )


def _ratio(runs: Sequence[Sequence[Measured]], i: int) -> tuple[str, str]:
    """Median milliseconds a round, and the median ratio to the first row's turn beside it, over all repeats."""
    seconds = [second for run in runs for turn in run[i].turns for second in turn]
    ratios = [mine / first for run in runs for mine, first in zip(run[i].medians, run[0].medians, strict=False)]
    if not ratios:
        return "-", "-"
    return f"{1_000 * statistics.median(seconds):.1f}", f"{statistics.median(ratios):.3f}"

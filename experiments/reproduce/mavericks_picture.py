"""The figure of the Maverick study: curves of the layout with most runs, and rounds saved on every layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.compare.statistics import mean
from experiments.reproduce.mavericks_records import accuracies

if TYPE_CHECKING:
    from experiments.reproduce.mavericks_page import Row

WINDOW = 25
"""Rounds over which selections of Mavericks are averaged."""


def figure(layouts: Mapping[str, Sequence[Row]], taus: Mapping[str, float], titles: Mapping[str, str]) -> Figure:
    """Four panels: accuracy, runs at the target, Mavericks chosen, and rounds saved.

    Args:
        layouts: the selectors on each layout, ``uniform`` first.
        taus: the target accuracy of each.
        titles: of the layouts.
    """
    first = next(iter(layouts))
    most = max(len(row.runs) for row in layouts[first])
    main = [row for row in layouts[first] if len(row.runs) >= most - 1]
    made = Figure(figsize=(11, 8.5), layout="constrained")
    accuracy, reached, chosen, rounds = made.subplots(2, 2).flatten()
    _accuracies(accuracy, main)
    accuracy.axhline(taus[first], color="grey", linestyle=":", linewidth=1)
    accuracy.set_title(f"{titles[first]}: mean accuracy, 95 % interval")
    _reached(reached, main, main[0].runs[0]["total"])
    reached.set_title(f"runs at tau = {100 * taus[first]:.1f} % (Kaplan-Meier)")
    _chosen(chosen, main)
    chosen.set_title(f"Mavericks in a cohort, mean of {WINDOW} rounds")
    _saved(rounds, layouts, titles)
    rounds.set_title("rounds saved against uniform (left of 0: sooner)")
    for panel in (accuracy, reached, chosen):
        panel.set_xlabel("round")
    accuracy.legend(fontsize=8)
    return made


def _accuracies(panel: Axes, rows: Sequence[Row]) -> None:
    best = 0.0
    for place, row in enumerate(rows):
        each = [accuracies(run) for run in row.runs]
        evaluated = [round for round in each[0] if all(round in one for one in each)]
        points = [mean([one[round] for one in each]) for round in evaluated]
        centres = [point.value or 0.0 for point in points]
        best = max(best, *centres)
        panel.plot(evaluated, centres, color=f"C{place}", label=row.selector, linewidth=1.2)
        around = [(p.low, p.high) for p in points if p.low is not None and p.high is not None]
        if len(around) == len(points):
            low, high = zip(*around, strict=True)
            panel.fill_between(evaluated, low, high, color=f"C{place}", alpha=0.15)
    panel.set_ylim(0.5 * best, 1.03 * best)


def _reached(panel: Axes, rows: Sequence[Row], total: int) -> None:
    for place, row in enumerate(rows):
        steps = [0.0, *row.found.rounds, total]
        shares = [0.0, *row.found.share, row.found.share[-1] if row.found.share else 0.0]
        panel.step(steps, shares, where="post", color=f"C{place}", label=row.selector)
    panel.set_ylim(0, 1.02)


def _chosen(panel: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        counts = np.array([run["mavericks"] for run in row.runs], dtype=np.float64).mean(axis=0)
        width = min(WINDOW, len(counts))
        smooth = np.convolve(counts, np.ones(width) / width, mode="valid")
        panel.plot(np.arange(len(smooth)) + width, smooth, color=f"C{place}", label=row.selector)


def _saved(panel: Axes, layouts: Mapping[str, Sequence[Row]], titles: Mapping[str, str]) -> None:
    labels: list[str] = []
    for place, (layout, rows) in enumerate(layouts.items()):
        for row in rows:
            found: Any = row.saved
            if found is None or found.difference is None:
                continue
            height = len(labels)
            if found.low is not None:
                panel.plot([found.low, found.high], [height, height], color=f"C{place}", linewidth=1.5)
            panel.plot(found.difference, height, "o", color=f"C{place}", markersize=4)
            labels.append(f"{row.selector}, {titles[layout].split(',')[0]}" if place else row.selector)
    panel.axvline(0, color="grey", linewidth=1)
    panel.set_yticks(range(len(labels)), labels, fontsize=7)
    panel.invert_yaxis()

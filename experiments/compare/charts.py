"""Curves with bands: the accuracies over rounds, and the share of runs at the target, as numbers to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.compare.records import Comparison, Summary
from experiments.compare.statistics import Mean, mean
from experiments.compare.tables import percent
from experiments.report.charts import NARROW, SERIES, WIDE, Axes, Figure, Layout, Line, Mark, Panel, Scale, Text, ticks

_TITLE, _AXIS = 46, 44  # above each panel, below the last one
_MOST_MARKS = 24  # of one configuration; of more, every second, or third ...


def draw(comparison: Comparison) -> list[Figure]:
    """The figure for wide and for narrow screens; empty if no run has an accuracy."""
    if not any(curve(summary) for summary in comparison.summaries):
        return []
    return [_figure(comparison, layout) for layout in (WIDE, NARROW)]


def curve(summary: Summary) -> list[tuple[int, Mean]]:
    """The mean accuracy of the finished runs in each round that all of them evaluated."""
    done = [run.accuracies for run in summary.runs if run.finished]
    common = [round for round in (done[0] if done else {}) if all(round in one for one in done)]
    return [(round, mean([one[round] for one in done])) for round in common]


def _figure(comparison: Comparison, layout: Layout) -> Figure:
    inner = layout.width - NARROW.right
    x = Scale(0, max(1, comparison.total), layout.left + 8, inner - 8)
    panels = [_accuracies(comparison, x, _TITLE, _TITLE + layout.leakage)]
    if comparison.target is not None:
        top = panels[-1].bottom + _TITLE
        panels.append(_reached(comparison, x, top, top + layout.accuracy))
    bottom = panels[-1].bottom
    return Figure(
        layout=replace(layout, right=NARROW.right, notes=False),
        height=bottom + _AXIS,
        panels=panels,
        x_ticks=[Text(x(t), bottom + 18, f"{t:g}") for t in ticks(0, x.high, layout.x_ticks) if t % 1 == 0],
        attacked=[],
        description=" ".join(
            f"{one.label}: mean test accuracy {percent(one.final.value)} after the last round."
            for one in comparison.summaries
            if one.final.value is not None
        ),
    )


def _accuracies(comparison: Comparison, x: Scale, top: float, bottom: float) -> Panel:
    curves = [curve(summary) for summary in comparison.summaries]
    highest = max(high for points in curves for _, found in points for high in (found.value or 0, found.high or 0))
    y = Scale(0, min(1.0, max(0.1, highest * 1.05)), bottom, top)
    title = "Test accuracy, mean over seeds with its 95 % interval"
    panel = Panel(title, top, bottom, [Text(0, y(v), f"{100 * v:g} %") for v in ticks(0, y.high, 5)])
    if comparison.target is not None and comparison.target <= y.high:
        across = y(comparison.target)
        panel.rules.append(Line(f"{x.start - 8:g},{across:g} {x.end + 8:g},{across:g}", "threshold"))
    for place, points in enumerate(curves):
        _curve(panel, (comparison.summaries[place].label, points), place % SERIES, (x, y))
    return panel


def _curve(panel: Panel, named: tuple[str, Sequence[tuple[int, Mean]]], series: int, axes: Axes) -> None:
    (label, points), (x, y) = named, axes

    def at(round: int, value: float) -> str:
        return f"{x(round):g},{y(min(max(value, y.low), y.high)):g}"

    spread = [(r, m.low, m.high) for r, m in points if m.low is not None and m.high is not None]
    around = [at(r, high) for r, _, high in spread] + [at(r, low) for r, low, _ in reversed(spread)]
    if around:
        panel.rules.append(Line(" ".join(around), f"interval s{series}"))
    known = [(r, m.value) for r, m in points if m.value is not None]
    panel.lines.append(Line(" ".join(at(r, value) for r, value in known), f"median s{series}"))
    for r, value in known[:: 1 + len(known) // _MOST_MARKS]:
        panel.marks.append(Mark(x(r), y(value), series, "victim", f"{label}, round {r}: {percent(value)}"))


def _reached(comparison: Comparison, x: Scale, top: float, bottom: float) -> Panel:
    y = Scale(0, 1, bottom, top)
    title = f"Share of runs that reached {percent(comparison.target or 0)} (Kaplan-Meier)"
    panel = Panel(title, top, bottom, [Text(0, y(v), f"{100 * v:g} %") for v in (0, 0.5, 1)])
    for place, summary in enumerate(comparison.summaries):
        share, points = 0.0, [f"{x(0):g},{y(0):g}"]
        for round, now in zip(summary.rounds.rounds, summary.rounds.share, strict=True):
            points += [f"{x(round):g},{y(share):g}", f"{x(round):g},{y(now):g}"]
            tip = f"{summary.label}, round {round:g}: {percent(now)} of the runs have reached it"
            panel.marks.append(Mark(x(round), y(now), place % SERIES, "victim", tip))
            share = now
        if share < 1:  # runs that have not got there are still seen
            points.append(f"{x(max(run.last for run in summary.runs)):g},{y(share):g}")
        panel.lines.append(Line(" ".join(points), f"median s{place % SERIES}"))
    return panel

"""The report's section on exposure: who was chosen how often, beside the best that was learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.charts import Scale, Text, ticks
from experiments.report.exposure import ledger
from experiments.report.records import Run
from experiments.report.story import decibels
from experiments.run_folder import Record

MOST_CLIENTS = 60
"""Clients in the table; of more, those of whom most was learned, then those chosen most often."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 300, 48, 34, 252


@dataclass(frozen=True)
class Dot:
    """A client in the plot, and the grey guess beside it.

    Attributes:
        opacity: the higher, the farther its labels are from those of all.
    """

    x: float
    y: float
    grey: float | None
    opacity: float
    tip: str


@dataclass(frozen=True)
class Plot:
    """Times chosen against the best PSNR, in SVG units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[Text]
    y_ticks: list[Text]
    dots: list[Dot]
    description: str


@dataclass(frozen=True)
class Section:
    """The table's records, how many there are in all, and the plot if anybody was attacked."""

    rows: list[Record]
    total: int
    attacked: bool
    valued: bool
    plot: Plot | None


def section(run: Run) -> Section | None:
    """What the page says of exposure, or ``None`` if nobody was ever chosen."""
    records = ledger(run)
    if not any(record["chosen"] for record in records):
        return None
    ranked = sorted(records, key=lambda r: (-(r["psnr"] or 0.0), -r["chosen"], r["client"]))[:MOST_CLIENTS]
    attacked = [record for record in records if record["attacks"]]
    return Section(
        rows=sorted(ranked, key=lambda record: record["client"]),
        total=len(records),
        attacked=bool(attacked),
        valued=any(record["appraised"] for record in records),
        plot=_plot(attacked) if attacked else None,
    )


def _plot(records: Sequence[Record]) -> Plot:
    most = max(record["chosen"] for record in records)
    highest = max(record["psnr"] for record in records)
    farthest = max((record["distance"] or 0.0 for record in records), default=0.0) or 1.0
    x = Scale(0, max(1, most), _LEFT + 8, _WIDTH - 16)
    y = Scale(0, max(20.0, 1.08 * highest), _BOTTOM, _TOP)
    dots = [
        Dot(
            x=round(x(record["chosen"]), 1),
            y=round(y(max(0.0, record["psnr"])), 1),
            grey=None if record["baseline_psnr"] is None else round(y(record["baseline_psnr"]), 1),
            opacity=round(0.25 + 0.75 * (record["distance"] or 0.0) / farthest, 3),
            tip=f"client {record['client']}, chosen {record['chosen']} times, attacked {record['attacks']} times: "
            f"{decibels(record['psnr'])} dB at best, a grey guess {decibels(record['baseline_psnr'])} dB",
        )
        for record in records
    ]
    return Plot(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - 8,
        top=_TOP,
        bottom=_BOTTOM,
        x_ticks=[Text(x(t), _BOTTOM + 18, f"{t:g}") for t in ticks(0, x.high, 6) if t % 1 == 0],
        y_ticks=[Text(0, y(t), f"{t:g}") for t in ticks(0, y.high, 5)],
        dots=dots,
        description=f"{len(records)} clients attacked; the best PSNR of any is {decibels(highest)} dB.",
    )

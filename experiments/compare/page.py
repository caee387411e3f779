"""The page: the answer first, then curves, tables and what failed, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from experiments.compare import charts, tables
from experiments.compare.records import Comparison
from experiments.report.charts import SERIES


def render(comparison: Comparison, sentences: Sequence[str]) -> str:
    """``compare.html``: loads nothing from anywhere; the same numbers give the same bytes."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("experiments.compare"), PackageLoader("experiments.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = comparison.summaries
    html = environment.get_template("compare.html").render(
        title=comparison.name,
        subtitle=[
            f"{len(found)} configuration{'' if len(found) == 1 else 's'}",
            f"{len(found[0].runs)} seed{'' if len(found[0].runs) == 1 else 's'} each",
            f"{comparison.total} rounds",
        ],
        sentences=sentences,
        figures=charts.draw(comparison),
        legend=[(one.label, place % SERIES) for place, one in enumerate(found)],
        head=tables.columns(comparison),
        rows=tables.rows(comparison),
        pair_head=tables.pair_columns(),
        pair_rows=tables.pair_rows(comparison),
        notes=tables.notes(comparison),
        failures=tables.failures(comparison),
        runs=[
            (one.label, run.seed, run.last, run.final, run.best, f"{run.folder.parent.name}/{run.folder.name}")
            for one in found
            for run in one.runs
        ],
        percent=lambda value: tables.NONE if value is None else tables.percent(value),
    )
    return html.lstrip() + "\n"

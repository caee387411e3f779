"""The page: everything is gathered from the run folder, and rendered into one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.report import charts, exposure_section, selection, story, tables
from experiments.report.exposure import ledger
from experiments.report.pictures import Picture
from experiments.report.records import Run, Victim, read_run
from experiments.run_folder import RunFolder, write_atomically

MOST_CARDS = 12
"""Victims pictured of one attack in one round; of more, some from the best to the worst."""

MOST_ROUNDS = 8
"""Attacked rounds pictured; of more, some from the first to the last."""

_LABELS_LISTED = 8  # images of a victim whose labels are listed one by one


@dataclass(frozen=True)
class Card:
    """One victim with its picture."""

    victim: Victim
    picture: Picture | None
    listed: bool


@dataclass(frozen=True)
class Wall:
    """The pictures of one attack in one round.

    Attributes:
        row: the numbers over all victims.
        cards: the victims shown, by client.
        series: number of the attack's colour.
    """

    row: story.Row
    cards: list[Card]
    series: int


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` and ``exposure.jsonl`` of a run, from nothing but its folder.

    The same folder gives the same bytes.

    Args:
        folder: a run folder, finished or not.

    Returns:
        The page's path.

    Raises:
        FedsimError: there is no run, or a file in it is damaged.
    """
    files, run = RunFolder(Path(folder)), read_run(Path(folder))
    files.write_exposure(ledger(run))
    write_atomically(files.report, render(run).encode())
    return files.report


def render(run: Run) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(db=story.decibels, pct=story.percent, num=_number, fixed=_fixed, whole=_whole)
    attacks = run.attacks
    html = environment.get_template("report.html").render(
        title=story.title(run),
        subtitle=story.subtitle(run),
        headline=story.headline(run),
        tiles=story.tiles(run),
        samples=run.samples(),
        films=[
            (film, [_frame(run, victim) for victim in film.frames], _series(run, film.attack))
            for film in story.films(run)
        ],
        figures=charts.draw(run),
        attacks=[(attack, i % charts.SERIES) for i, attack in enumerate(attacks)],
        has_accuracy=bool(run.series("test_accuracy")),
        has_loss={name: bool(run.series(f"{name}_loss")) for name in ("test", "train")},
        rows=story.rows(run),
        walls=_walls(run),
        rounds_left_out=len(run.attacked_rounds) > MOST_ROUNDS,
        victims=[(victim, _series(run, victim.attack)) for victim in run.victims],
        has_lpips=any(victim.lpips is not None for victim in run.victims),
        has_flat=any(victim.mean_colour_psnr is not None for victim in run.victims),
        clients=tables.clients_table(run),
        heatmap=selection.heat_map(run),
        exposure=exposure_section.section(run),
        selector=run.table("selection").get("name"),
        prices=selection.privacy_price(run),
        facts=tables.threat_model(run),
        threat_columns=attacks or [str(t.get("label") or t.get("name")) for t in run.tables("attacks")],
        configuration=tables.configuration(run),
        nearly_exact=story.NEARLY_EXACT,
        recognisable=story.RECOGNISABLE,
    )
    return html.lstrip() + "\n"


def _walls(run: Run) -> list[Wall]:
    shown = set(story.spread(run.attacked_rounds, MOST_ROUNDS))
    return [
        Wall(row, [_card(run, v) for v in _sample(run.of(row.attack, row.round))], _series(run, row.attack))
        for row in story.rows(run)
        if row.round in shown
    ]


def _sample(victims: list[Victim]) -> list[Victim]:
    """All victims, or some evenly spaced from the best to the worst; by client."""
    ranked = sorted(victims, key=lambda victim: (-victim.counted, victim.client))
    return sorted((ranked[i] for i in story.spread(range(len(ranked)), MOST_CARDS)), key=lambda victim: victim.client)


def _card(run: Run, victim: Victim) -> Card:
    return Card(victim, run.picture(victim), listed=0 < len(victim.labels_true) <= _LABELS_LISTED)


def _frame(run: Run, victim: Victim) -> Card:
    """A card of the film: larger, and without a long list of labels."""
    return Card(victim, run.picture(victim, enlarge=1.6), listed=len(victim.labels_true) == 1)


def _series(run: Run, attack: str) -> int:
    return run.attacks.index(attack) % charts.SERIES


def _number(value: float | None, digits: int = 3) -> str:
    """A number for reading; very large and very small ones by their power of ten."""
    if value is None:
        return story.MISSING
    if value != 0 and not 10.0**-digits <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def _fixed(value: float | None, digits: int = 2) -> str:
    """A number of about 1 for reading."""
    return story.MISSING if value is None else f"{value:.{digits}f}"


def _whole(value: int | None) -> str:
    return story.MISSING if value is None else f"{value:,}".replace(",", "\u202f")

"""The chart of learning and leaking: panels of one figure above one axis of rounds, as numbers to draw.

The figure is laid out twice, for wide and for narrow screens, so that its text has the size of the
page's text on both; the template draws it as inline SVG whose colours follow the page's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from experiments.report.records import Run, Victim
from experiments.report.story import NEARLY_EXACT, RECOGNISABLE, decibels, percent

SERIES = 6
"""Colours and marks there are; further attacks start over."""


@dataclass(frozen=True)
class Layout:
    """Sizes in SVG units."""

    name: str
    width: int
    left: int
    right: int
    accuracy: int
    leakage: int
    loss: int
    x_ticks: int
    notes: bool


WIDE = Layout("wide", width=920, left=50, right=124, accuracy=150, leakage=240, loss=120, x_ticks=10, notes=True)
NARROW = Layout("narrow", width=360, left=48, right=14, accuracy=120, leakage=220, loss=100, x_ticks=5, notes=False)

_TITLE = 46  # above each panel
_AXIS = 44  # below the last one


@dataclass(frozen=True)
class Text:
    """Words at a place."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line through points, of a style that the page's colours know."""

    points: str
    style: str


@dataclass(frozen=True)
class Mark:
    """One value, with what a pointer resting on it is told."""

    x: float
    y: float
    series: int
    style: str
    tip: str


@dataclass(frozen=True)
class Band:
    """A horizontal band across a panel."""

    y: float
    height: float
    style: str


@dataclass
class Panel:
    """One plot of the figure."""

    title: str
    top: float
    bottom: float
    grid: list[Text] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    rules: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    notes: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """All panels above one axis."""

    layout: Layout
    height: float
    panels: list[Panel]
    x_ticks: list[Text]
    attacked: list[tuple[float, int]]
    description: str

    @property
    def inner_right(self) -> int:
        """Where the plots end."""
        return self.layout.width - self.layout.right


@dataclass(frozen=True)
class Scale:
    """From values to positions."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


Axes = tuple[Scale, Scale]


def draw(run: Run) -> list[Figure]:
    """The figure in both layouts; empty if there is nothing to plot."""
    if not run.series("test_accuracy") and not run.series("train_loss") and not run.victims:
        return []
    wide = WIDE if run.victims else replace(WIDE, right=NARROW.right)  # without victims there is nothing to note
    return [_figure(run, layout) for layout in (wide, NARROW)]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within a range, about ``count`` of them.

    >>> ticks(0, 100, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(run: Run, layout: Layout) -> Figure:
    rounds = [r for key in ("test_accuracy", "train_loss", "test_loss") for r, _ in run.series(key)]
    rounds += run.attacked_rounds
    low, high = min(rounds), max(rounds)
    pad = 26 if layout.notes else 16
    x = Scale(low, max(high, low + 1), layout.left + pad, layout.width - layout.right - pad)

    panels: list[Panel] = []
    top = float(_TITLE)
    if run.series("test_accuracy"):
        panels.append(_accuracy(run, x, top, top + layout.accuracy))
        top += layout.accuracy + _TITLE
    if run.victims:
        panels.append(_leakage(run, x, top, top + layout.leakage, layout))
        top += layout.leakage + _TITLE
    if run.series("train_loss") or run.series("test_loss"):
        panels.append(_loss(run, x, top, top + layout.loss))
        top += layout.loss + _TITLE
    bottom = panels[-1].bottom
    marks = [Text(x(tick), bottom + 18, f"{tick:g}") for tick in ticks(x.low, x.high, layout.x_ticks) if tick % 1 == 0]
    return Figure(
        layout=layout,
        height=bottom + _AXIS,
        panels=panels,
        x_ticks=marks,
        attacked=[(x(when), when) for when in run.attacked_rounds],
        description=_described(run),
    )


def _accuracy(run: Run, x: Scale, top: float, bottom: float) -> Panel:
    y = Scale(0, 1, bottom, top)
    panel = Panel("Test accuracy", top, bottom, [Text(0, y(v), percent(v)) for v in (0, 0.25, 0.5, 0.75, 1)])
    _curve(panel, run.series("test_accuracy"), (x, y), "accuracy", percent)
    return panel


def _loss(run: Run, x: Scale, top: float, bottom: float) -> Panel:
    curves = {"test": run.series("test_loss"), "train": run.series("train_loss")}
    highest = max(value for curve in curves.values() for _, value in curve)
    y = Scale(0, highest * 1.05 if highest > 0 else 1, bottom, top)
    panel = Panel("Loss", top, bottom, [Text(0, y(v), f"{v:g}") for v in ticks(0, y.high, 3)])
    for name, curve in curves.items():
        _curve(panel, curve, (x, y), f"{name}-loss", lambda value: f"{value:.3f}")
    return panel


def _curve(
    panel: Panel, curve: Sequence[tuple[int, float]], axes: Axes, style: str, form: Callable[[float], str]
) -> None:
    """A line, and places on it that tell their value."""
    if not curve:
        return
    x, y = axes
    panel.lines.append(Line(" ".join(f"{x(r):g},{y(min(v, y.high)):g}" for r, v in curve), style))
    shown = curve if len(curve) <= 60 else curve[:: math.ceil(len(curve) / 60)]
    panel.marks += [Mark(x(r), y(min(v, y.high)), 0, f"on-{style}", f"round {r}: {form(v)}") for r, v in shown]


def _leakage(run: Run, x: Scale, top: float, bottom: float, layout: Layout) -> Panel:
    values = [victim.counted for victim in run.victims]
    greys = [victim.baseline_psnr for victim in run.victims if victim.baseline_psnr is not None]
    y = Scale(min(0.0, math.floor(min([*values, *greys]))), max(40.0, *values) * 1.04, bottom, top)
    panel = Panel(
        "Leakage: PSNR of each victim (dB)", top, bottom, [Text(0, y(v), f"{v:g}") for v in ticks(y.low, y.high, 5)]
    )
    for threshold, words in ((NEARLY_EXACT, "nearly exact"), (RECOGNISABLE, "recognisable")):
        panel.rules.append(Line(_across(layout, y(threshold)), "threshold"))
        panel.notes.append(Text(0, y(threshold), f"{words} ≥ {threshold:g}"))
    if greys:
        upper, lower, centre = y(max(greys)), y(min(greys)), y(median(greys))
        panel.bands.append(Band(min(upper, centre - 1), max(lower - upper, 2), "grey"))
        panel.rules.append(Line(_across(layout, centre), "grey"))
        panel.notes = [note for note in panel.notes if abs(note.y - centre) > 13]
        panel.notes.append(Text(0, centre, f"grey guess {median(greys):.1f}"))
    for index, attack in enumerate(run.attacks):
        _series(panel, run, attack, index, (x, y))
    return panel


def _series(panel: Panel, run: Run, attack: str, index: int, axes: Axes) -> None:
    """One attack: a mark for each victim, a bar at each round's median, a line through the medians."""
    x, y = axes
    series = index % SERIES
    shift = 9.0 * (index - (len(run.attacks) - 1) / 2) if len(run.attacks) > 1 else 0.0
    centres = []
    for when in sorted({victim.round for victim in run.of(attack)}):
        victims = run.of(attack, when)
        centre = median(victim.counted for victim in victims)
        place = x(when) + shift
        centres.append((place, y(centre)))
        panel.marks.append(
            Mark(place, y(centre), series, "median", f"{attack}, round {when}: median {decibels(centre)} dB")
        )
        for rank, victim in enumerate(victims):
            aside = ((rank * 3) % 7 - 3) * (1.7 if shift or len(run.attacks) > 1 else 3.4) if len(victims) > 1 else 0.0
            panel.marks.append(Mark(round(place + aside, 1), y(victim.counted), series, "victim", _tip(victim)))
    panel.lines.append(Line(" ".join(f"{a:g},{b:g}" for a, b in centres), f"median s{series}"))


def _tip(victim: Victim) -> str:
    failed = ", failed" if victim.failed else ""
    return f"{victim.attack}, round {victim.round}, client {victim.client}: {decibels(victim.counted)} dB{failed}"


def _across(layout: Layout, y: float) -> str:
    return f"{layout.left},{y:g} {layout.width - layout.right},{y:g}"


def _described(run: Run) -> str:
    """The figure in words, for those who do not see it."""
    parts = []
    accuracy = run.series("test_accuracy")
    if accuracy:
        (first, start), (last, end) = accuracy[0], accuracy[-1]
        parts.append(f"Test accuracy goes from {percent(start)} in round {first} to {percent(end)} in round {last}.")
    for attack in run.attacks:
        rounds = sorted({victim.round for victim in run.of(attack)})
        shown = rounds if len(rounds) <= 6 else [rounds[0], rounds[len(rounds) // 2], rounds[-1]]
        medians = ", ".join(f"{decibels(median(v.counted for v in run.of(attack, r)))} dB in round {r}" for r in shown)
        parts.append(f"Median PSNR of {attack}: {medians}.")
    return " ".join(parts)

"""Table and figure of DLG's grid of defences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from experiments.reproduce.updates import interval

Record = dict[str, Any]

LEAK = 20.0
"""PSNR in dB from which an image counts as recovered."""
LESS = 0.1
"""Decibels by which an attack has to be worse to count as worse."""

HEAD = """# DLG's grid of defences

Made by `make reproduce-dlg-defences` (`python -m experiments.reproduce.dlg_defences`), on one thread of a CPU, which
also writes the original above the blind and the adaptive reconstruction to `docs/results/pictures/`. CIFAR-10, one test
image a gradient, fresh weights for each victim. `dlg` attacks `lenet` with weights uniform in [-0.5, 0.5] and images
that are not normalised; its victims are some that it recovers from its first start if nothing is done against it, as
what becomes of a search that fails anyway says nothing about a defence. `inverting_gradients` attacks `cnn` with GELU
and normalised images.

Victims: {victims}.

The blind attack knows of no defence; the `adaptive` one knows its name and strength. Both begin at the same point,
which is also the same in all rows. Every victim counts; medians over victims with 95 % bootstrap intervals; the
difference is the median of the victims' own differences. A victim is recovered from {leak:g} dB on. The noise's share
is of the squared length of what was sent."""

CLAIMS: tuple[tuple[str, Callable[[Record], bool]], ...] = (
    ("pruning of 20 % or less does not protect", lambda r: r["defence"] == "pruning" and _strength(r) <= 0.2),
    ("pruning of more than 20 % does", lambda r: r["defence"] == "pruning" and _strength(r) > 0.2),
    ("noise of deviation below 1e-2 does not", lambda r: _noise(r) and _strength(r) < 0.99e-2),
    ("noise of deviation 1e-2 or more does", lambda r: _noise(r) and _strength(r) > 0.99e-2),
    ("noise of variance below 1e-2 does not", lambda r: _noise(r) and _strength(r) < 0.99e-1),
    ("noise of variance 1e-2 or more does", lambda r: _noise(r) and _strength(r) > 0.99e-1),
    ("half precision does not", lambda r: r["defence"] == "half_precision"),
    ("int8 does", lambda r: r["defence"] == "int8"),
)
"""What DLG's authors are quoted with, and the cells that it is about."""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` and its figure."""
    attacks = list(dict.fromkeys(record["attack"] for record in records))
    victims = " and ".join(_ran(_of(records, attack), attack) for attack in attacks)
    (folder / "images").mkdir(exist_ok=True)
    figure(records, attacks).savefig(folder / "images" / f"{name}.png", dpi=110)
    text = [
        HEAD.format(victims=victims, leak=LEAK),
        f"![PSNR in each cell](images/{name}.png)",
        "## Against the authors' claims",
        "As DLG's authors are usually quoted; whether their noise is a deviation or a variance is read differently, so "
        f"both are here. The share of victims recovered (at least {LEAK:g} dB), over all cells that a claim is about.",
        claims(records, attacks),
        "## Knowing the defence",
        knowing(records, attacks),
    ]
    for attack in attacks:
        own = _of(records, attack)
        grey = median(r["baseline_psnr"] for r in own)
        text += [f"## {attack}", f"A uniform grey scores {grey:.1f} dB.", table(own)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def claims(records: Sequence[Record], attacks: Sequence[str]) -> str:
    """A row a claim: the share of victims recovered by each attack, blind and adaptive."""
    heads = [f"`{attack}`, {who}" for attack in attacks for who in ("blind", "adaptive")]
    rows = [f"| claim | {' | '.join(heads)} |", "|" + " --- |" * (1 + len(heads))]
    for claim, about in CLAIMS:
        cells = []
        for attack in attacks:
            own = [r for r in _of(records, attack) if about(r)]
            cells += [f"{_share([r[what] >= LEAK for r in own])}" for what in ("blind_psnr", "psnr")]
        rows.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(rows)


def knowing(records: Sequence[Record], attacks: Sequence[str]) -> str:
    """Where the adaptive attack is at least as good as the blind one, and where it is not."""
    lines = []
    for attack in attacks:
        cells = {cell(own[0]): own for own in _cells(_of(records, attack))}
        worse = {name: own for name, own in cells.items() if middle(own, "psnr") < middle(own, "blind_psnr") - LESS}
        lost = [r for own in cells.values() for r in own if r["psnr"] < r["blind_psnr"] - LESS]
        said = f"`{attack}`: the adaptive attack's median is at least the blind one's in {len(cells) - len(worse)} of "
        said += f"{len(cells)} cells"
        said += f"; not in {', '.join(worse)}. " if worse else ". "
        said += f"Of {sum(len(own) for own in cells.values())} pairs of a victim and a cell it is worse in {len(lost)}"
        if lost:
            both = sum(max(r["psnr"], r["blind_psnr"]) < LEAK for r in lost)
            said += f", in {both} of which neither recovers the image (by {_most(lost):.1f} dB at most)"
        lines.append(f"- {said}.")
    lines.append(
        "\nThe adaptive attack keeps, of two reconstructions, the one that explains what was sent better, by an "
        "objective that knows the defence; whether its picture is nearer the truth it cannot see. Where two "
        "reconstructions are both far from the truth that objective says little about decibels. Where the defence "
        "tells nothing (no defence, low precision) the two attacks are the same, bit for bit."
    )
    return "\n".join(lines)


def table(records: Sequence[Record]) -> str:
    """A row a cell."""
    rows = [
        "| defence | noise's share | blind, dB | adaptive, dB | difference, dB | worse in | recovered, blind "
        "| recovered, adaptive | labels, adaptive |",
        "|" + " --- |" * 9,
    ]
    for own in _cells(records):
        share = median(r["share_of_noise"] for r in own)
        rows.append(
            f"| {cell(own[0])} | {f'{share:.2g}' if share else ''} | {_written([r['blind_psnr'] for r in own])} "
            f"| {_written([r['psnr'] for r in own])} | {_written([r['psnr'] - r['blind_psnr'] for r in own], '+')} "
            f"| {sum(r['psnr'] < r['blind_psnr'] - LESS for r in own)} of {len(own)} "
            f"| {_share([r['blind_psnr'] >= LEAK for r in own])} | {_share([r['psnr'] >= LEAK for r in own])} "
            f"| {_share([r['label_accuracy'] == 1 for r in own])} |"
        )
    return "\n".join(rows)


def cell(record: Record) -> str:
    """What a cell of the grid is called."""
    defence = record["defence"].replace("_", " ")
    if defence == "none":
        return "no defence"
    if defence == "pruning":
        return f"pruning {_strength(record):.0%}"
    if _noise(record):
        return f"{defence} {_strength(record):.2g}"
    return str(record["strength"].get("format", defence))


def middle(records: Sequence[Record], what: str) -> float:
    """The median over victims."""
    return float(median(r[what] for r in records))


def figure(records: Sequence[Record], attacks: Sequence[str]) -> Figure:
    """A panel an attack: PSNR with its interval in each cell, blind and adaptive."""
    drawn = Figure(figsize=(10, 3.4 * len(attacks)), layout="constrained")
    panels = drawn.subplots(len(attacks), 1, sharex=True, squeeze=False)[:, 0]
    for panel, attack in zip(panels, attacks, strict=True):
        cells = _cells(_of(records, attack))
        for shift, what, label, colour in ((-0.12, "blind_psnr", "blind", "0.5"), (0.12, "psnr", "adaptive", "C3")):
            found = [interval([r[what] for r in own]) for own in cells]
            below, above = ([abs(f[0] - f[i]) for f in found] for i in (1, 2))
            places = [place + shift for place in range(len(cells))]
            panel.errorbar(
                places, [f[0] for f in found], yerr=[below, above], fmt="o", capsize=2, color=colour, label=label
            )
        panel.axhline(LEAK, color="0.8", linewidth=1)
        panel.set_xticks(range(len(cells)), [cell(own[0]) for own in cells], rotation=60, ha="right", fontsize=8)
        panel.set(title=attack, ylabel="PSNR, dB (median of victims)")
        panel.grid(axis="y", alpha=0.3)
    panels[0].legend(fontsize=8)
    return drawn


def _ran(records: Sequence[Record], attack: str) -> str:
    budget = ", ".join(f"{value:,} {name}" for name, value in records[0]["parameters"].items())
    return f"{len({r['victim'] for r in records})} of `{attack}` ({budget})"


def _of(records: Sequence[Record], attack: str) -> list[Record]:
    return [record for record in records if record["attack"] == attack]


def _cells(records: Sequence[Record]) -> list[list[Record]]:
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(cell(record), []).append(record)
    return list(cells.values())


def _strength(record: Record) -> float:
    return float(next(iter(record["strength"].values())))


def _noise(record: Record) -> bool:
    return str(record["defence"]).endswith("_noise")


def _written(values: Sequence[float], sign: str = "") -> str:
    centre, low, high = interval(values)
    return f"{centre:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _share(held: Sequence[bool]) -> str:
    return f"{sum(held)} of {len(held)}" if held else "-"


def _most(records: Sequence[Record]) -> float:
    most = max((r["blind_psnr"] - r["psnr"] for r in records), default=math.nan)
    return float(most)

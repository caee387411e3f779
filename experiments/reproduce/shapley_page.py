"""The page on what Shapley values cost: tables of every method and every partition, and the figure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from matplotlib.figure import Figure

NAME = "shapley-cost"
DRAWN = ("gtg", "published_gtg", "truncated_monte_carlo")
METHODS = ("exact", *DRAWN, "leave_one_out", "multi_round", "one_round")
TIMED = "exact, timed"
EVALUATIONS, RANKS, SECONDS = 512, 0.95, 60
"""What is wanted of ten clients: so few evaluations at such a rank correlation, and exact values in such a time."""

Records = Sequence[Mapping[str, Any]]


def page(records: Records, options: argparse.Namespace) -> str:
    """What is measured so far."""
    games = [r for r in records if r["method"] != TIMED]
    partition = games[0]["partition"] if games else ""
    rounds = f"{options.warm_up + 1} to {options.warm_up + options.rounds}"
    text = [
        "# What a Shapley value costs",
        f"LeNet on Fashion-MNIST, FedAvg with all clients, about 600 images each. Games are rounds {rounds} of each "
        f"run, over the clients' real updates; a coalition is worth minus the loss of its model on "
        f"{options.images:,} images that no client has. The sampled methods were repeated with {options.draws} seeds a "
        "game. Made by `make reproduce-shapley-cost`, on one thread of a CPU; every method has its default parameters.",
        "An evaluation is a model scored, that of nobody included. The error is the Euclidean distance to the exact "
        "values over their length. `one_round` is compared with the sum of the rounds' exact values, and evaluates "
        "once for all rounds. Medians over games and seeds; *lowest* is the worst rank correlation (Spearman) "
        "among them. *Intervals hit* is the share of 95 % intervals that hold the exact value; values that came out "
        "exact have none. Seconds are those of the evaluations, for one game, beside whatever else the machine did.",
        "## Wanted of ten clients",
        wanted(records),
        f"## Methods ({partition})",
        _methods([r for r in games if r["partition"] == partition]),
        f"![Error against evaluations]({NAME}.png)",
        "## Ten clients, by what their data are like",
        "*Spread* is the standard deviation of the exact values over their root mean square: near 1 where some "
        "help and others harm, near 0 where all give the same. *Gap* is the median distance between neighbours in "
        "rank, over the same: clients whose values are closer than the error change places, and nothing but "
        "more evaluations tells them apart. *Games of 9* are those in which a client with hardly an image did not "
        "answer; they do not count for what is wanted of ten.",
        _partitions([r for r in games if r["clients"] == 10]),
    ]
    return "\n\n".join(text) + "\n"


def wanted(records: Records) -> str:
    """Whether what is wanted is reached, as a list."""
    lines = []
    for partition in dict.fromkeys(r["partition"] for r in records):
        own = [r for r in records if (r["partition"], r["method"], r.get("of")) == (partition, "gtg", 2**10)]
        ranks = [r["rank_correlation"] for r in own if r["rank_correlation"] is not None]
        if ranks:
            most, typical = max(r["evaluations"] for r in own), median(ranks)
            reached = "reached" if most <= EVALUATIONS and typical >= RANKS else "**not reached**"
            lines.append(
                f"- At most {EVALUATIONS} of 1,024 evaluations at a median rank correlation of {RANKS} by `gtg`, "
                f"{partition}: {reached}, {typical:.3f} with at most {most} ({_games(own)} games, {len(own)} values)."
            )
    seconds = [r["seconds"] for r in records if (r["method"], r.get("of")) == ("exact", 2**10)]
    if seconds:
        reached = "reached" if max(seconds) < SECONDS else "**not reached in every game**"
        lines.append(
            f"- Exact values of 10 clients in under {SECONDS} seconds: {reached} with one thread of a machine that did "
            f"other work as well, {median(seconds):.1f} s in the median of {len(seconds)} games, from "
            f"{min(seconds):.1f} to {max(seconds):.1f} s."
        )
    for r in sorted((r for r in records if r["method"] == TIMED), key=lambda r: r["threads"]):
        reached = "reached" if r["seconds"] < SECONDS else "**not reached**"
        lines.append(
            f"- Exact values of 10 clients, LeNet, {r['images']:,} images, in under {SECONDS} seconds: {reached}, "
            f"{r['seconds']:.1f} s with {r['threads']} thread{'s' * (r['threads'] > 1)} on {r['cores']} cores "
            f"(the best of {', '.join(f'{s:.1f}' for s in r['all_seconds'])}; load of the machine {r['load']:.1f})."
        )
    return "\n".join(lines)


def _methods(records: Records) -> str:
    rows = [
        "| clients | method | games | evaluations | of exact's | relative error | rank correlation | lowest "
        "| intervals hit | seconds |",
        "|" + " --- |" * 10,
    ]
    for size in sorted({r["clients"] for r in records}):
        for method in METHODS:
            own = [r for r in records if (r["clients"], r["method"]) == (size, method)]
            rows.append(
                f"| {size} | `{method}` | {_games(own)} | {median(r['evaluations'] for r in own):.0f} "
                f"| {median(r['evaluations'] / r['of'] for r in own):.0%} | {_quality(own)} "
                f"| {median(r['seconds'] for r in own):.1f} |"
            )
    return "\n".join(rows)


def _partitions(records: Records) -> str:
    rows = [
        "| partition | spread | gap | method | games | of 9 | evaluations | of exact's | most | relative error "
        "| rank correlation | lowest | intervals hit |",
        "|" + " --- |" * 13,
    ]
    for partition in dict.fromkeys(r["partition"] for r in records):
        for method in DRAWN:
            own = [r for r in records if (r["partition"], r["method"]) == (partition, method)]
            spread, gap = (median(column) for column in zip(*(_closeness(r["exact"]) for r in own), strict=True))
            rows.append(
                f"| {partition} | {spread:.2f} | {gap:.3f} | `{method}` | {_games(own)} "
                f"| {_games([r for r in own if r['of'] < 2**10])} | {median(r['evaluations'] for r in own):.0f} "
                f"| {median(r['evaluations'] / r['of'] for r in own):.0%} | {max(r['evaluations'] for r in own)} "
                f"| {_quality(own)} |"
            )
    return "\n".join(rows)


def _closeness(values: Sequence[float]) -> tuple[float, float]:
    """Spread of values and median gap between neighbours, both over their root mean square."""
    length = float(np.sqrt(np.mean(np.square(values))))
    return float(np.std(values)) / length, float(np.median(np.diff(np.sort(values)))) / length


def _games(records: Records) -> int:
    return len({(r["seed"], r["round"]) for r in records})


def _quality(records: Records) -> str:
    ranks = [r["rank_correlation"] for r in records if r["rank_correlation"] is not None]
    covered = [r["covered"] for r in records if r["covered"] is not None]
    return (
        f"{median(r['error'] for r in records):.1%} | {f'{median(ranks):.3f}' if ranks else '-'} "
        f"| {f'{min(ranks):.3f}' if ranks else '-'} | {f'{mean(covered):.0%}' if covered else '-'}"
    )


def draw(records: Records, path: Path) -> None:
    """Error against evaluations, a panel a size, a point a game and seed."""
    records = [r for r in records if r["method"] != TIMED]
    sizes = sorted({r["clients"] for r in records})
    figure = Figure(figsize=(2.8 * len(sizes), 3.2), layout="constrained")
    for axes, size in zip(np.atleast_1d(figure.subplots(1, len(sizes), sharey=True)), sizes, strict=True):
        for i, method in enumerate(METHODS[1:]):
            own = [r for r in records if (r["clients"], r["method"]) == (size, method)]
            x, y = [r["evaluations"] for r in own], [max(r["error"], 1e-3) for r in own]
            axes.scatter(x, y, s=14, alpha=0.5, label=method, color=f"C{i}", linewidths=0)
        axes.axvline(2**size, color="0.6", linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", title=f"{size} clients", xlabel="evaluations")
    figure.axes[0].set_ylabel("relative error (0 drawn at 0.001)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)

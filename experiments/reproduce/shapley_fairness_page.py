"""Table and figure of what Shapley values say of Mavericks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsim import seeding

Record = dict[str, Any]
Interval = tuple[float, float, float]

WINDOWS = ((1, 10), (11, 25), (26, 50), (51, 100), (101, 200))
RESAMPLES = 10_000
TITLES = {"accuracy": "worth = accuracy", "loss": "worth = minus loss"}

HEAD = """# What Shapley values say of a Maverick

Made by `make reproduce-shapley-fairness` (`python -m experiments.reproduce.shapley_fairness`), on the CPU.
Fashion-MNIST, 50 clients, 5 a round by uniform selection, FedAvg; client 49 alone has class 1 (7,080 images against
1,080; `experiments/configs/maverick-study.toml`, {seeds} seeds a metric). Exact Shapley values of every round on
1,000 images of the server's own; the rows are of the {rounds} rounds in which the Maverick was in the cohort.

*Maverick - others*: its value minus the mean of the others in the same round. *Rank*: its place among the values of
the cohort, 1 the highest; 3 is the middle of five. *Ratio, correct*: the sum of its values in these rounds over that
of the cohort's mean values. *Ratio, v({{}}) = 0*: the same as the study's code computes it, where the worth of
nobody is 0 and each value so is v({{}}) / m higher; ranks and differences are the same with both. *Ratio of nothing*
is what that code gives to a client whose update changes no coalition's worth: v({{}}) / v(cohort). Where it is near
1, a ratio near 1 says nothing about what a client contributed. With the loss, worths are negative: a ratio *below*
that of nothing is there a client that lowers the loss.

Intervals: 95 %, bootstrap over seeds with their rounds ({resamples:,} resamples, percentiles); with {seeds} seeds
they are rough, and of a ratio of sums near 0 they are wide. The correct ratio is left out where the cohort's mean
value is not clearly above 0 (its interval holds 0)."""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` and ``name.png``.

    Args:
        folder: where to.
        name: of the files, without suffix.
        records: a line a Maverick and round.
    """
    seeds = len({record["seed"] for record in records})
    rounds = len({(record["seed"], record["round"]) for record in records})  # both metrics are of the same cohorts
    text = [HEAD.format(seeds=seeds, rounds=rounds, resamples=RESAMPLES)]
    metrics = [metric for metric in TITLES if any(record["metric"] == metric for record in records)]
    if metrics:
        figure(records, metrics).savefig(folder / f"{name}.png", dpi=100)
        text.append(f"![Ratios, differences and ranks over rounds]({name}.png)")
    for metric in metrics:
        text += [f"## {TITLES[metric]}", table([record for record in records if record["metric"] == metric])]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def ratio(records: Sequence[Record]) -> float:
    """The Maverick's values over the cohort's mean values, both summed over rounds, as they are."""
    return float(sum(r["value"] for r in records) / sum(_mean_value(r) for r in records))


def study_ratio(records: Sequence[Record]) -> float:
    """The same with nobody taken to be worth 0: each value is v({}) / m higher, and the cohort's mean v(S) / m."""
    raised = sum(r["value"] + r["before"] / r["clients"] for r in records)
    return float(raised / sum(r["after"] / r["clients"] for r in records))


def nothing_ratio(records: Sequence[Record]) -> float:
    """What a client that adds nothing to any coalition has of the mean value where nobody is taken to be worth 0."""
    return float(sum(r["before"] / r["clients"] for r in records) / sum(r["after"] / r["clients"] for r in records))


def difference(records: Sequence[Record]) -> float:
    """The Maverick's value minus the mean of the others', in the mean over rounds."""
    return float(mean(r["value"] - r["others"] for r in records))


def rank(records: Sequence[Record]) -> float:
    """The Maverick's place, in the mean over rounds."""
    return float(mean(r["rank"] for r in records))


def interval(records: Sequence[Record], statistic: Callable[[Sequence[Record]], float]) -> Interval:
    """A statistic and its 95 % interval, from seeds drawn again with all of their rounds."""
    by_seed = [[r for r in records if r["seed"] == seed] for seed in sorted({r["seed"] for r in records})]
    centre = statistic(records)
    if len(by_seed) < 2:
        return centre, centre, centre
    draws = seeding.numpy_generator(0, "reproduce", "shapley-fairness", "bootstrap")
    counts, places = np.unique(
        np.sort(draws.integers(len(by_seed), size=(RESAMPLES, len(by_seed))), axis=1), axis=0, return_counts=True
    )
    found = [statistic([r for i in chosen for r in by_seed[i]]) for chosen in counts]
    low, high = np.quantile(np.repeat(found, places), [0.025, 0.975])
    return centre, float(low), float(high)


def windows(records: Sequence[Record]) -> list[tuple[tuple[int, int], list[Record]]]:
    """The records of each window of rounds that has any."""
    split = [(ends, [r for r in records if ends[0] <= r["round"] <= ends[1]]) for ends in WINDOWS]
    return [(ends, own) for ends, own in split if own]


def table(records: Sequence[Record]) -> str:
    """A row a window of rounds."""
    lines = [
        "| rounds | with Maverick | Maverick | others, mean | Maverick - others | rank | ratio, correct "
        "| ratio, v({}) = 0 | ratio of nothing |",
        "|" + " --- |" * 9,
    ]
    for (first, last), own in windows(records):
        _, low, high = interval(own, lambda rs: sum(_mean_value(r) for r in rs))
        correct = _shown(interval(own, ratio), 2) if low > 0 or high < 0 else "\N{EN DASH}"
        lines.append(
            f"| {first} to {last} | {len(own)} | {mean(r['value'] for r in own):+.4f} "
            f"| {mean(r['others'] for r in own):+.4f} | {_shown(interval(own, difference), 4, sign='+')} "
            f"| {_shown(interval(own, rank), 1)} | {correct} | {_shown(interval(own, study_ratio), 2)} "
            f"| {nothing_ratio(own):.2f} |"
        )
    return "\n".join(lines)


def figure(records: Sequence[Record], metrics: Sequence[str]) -> Figure:
    """A row a metric: the study's ratio beside that of nothing, the difference, and the rank."""
    made = Figure(figsize=(11, 3.4 * len(metrics)), layout="constrained")
    for (ratios, gaps, ranks), metric in zip(made.subplots(len(metrics), 3, squeeze=False), metrics, strict=True):
        own = sorted((r for r in records if r["metric"] == metric), key=lambda r: r["round"])
        rounds = [r["round"] for r in own]
        ratios.plot(rounds, [study_ratio([r]) for r in own], ".", color="C1", alpha=0.4, label="Maverick, v({}) = 0")
        ratios.plot(rounds, [nothing_ratio([r]) for r in own], ".", color="0.6", label="who adds nothing, v({}) = 0")
        ratios.axhline(1, color="grey", linewidth=0.8)
        ratios.set_title(f"{TITLES[metric]}: ratio to the mean")
        ratios.legend(fontsize=8)
        _over_windows(gaps, own, difference)
        gaps.axhline(0, color="grey", linewidth=0.8)
        gaps.set_title("value of the Maverick minus the others'")
        _over_windows(ranks, own, rank)
        ranks.axhline((1 + own[0]["clients"]) / 2, color="grey", linewidth=0.8)
        ranks.set_title("rank in the cohort (1 is highest)")
        ranks.invert_yaxis()
        for panel in (ratios, gaps, ranks):
            panel.set_xlabel("round")
    return made


def _over_windows(panel: Axes, records: Sequence[Record], statistic: Callable[[Sequence[Record]], float]) -> None:
    for (first, last), own in windows(records):
        centre, low, high = interval(own, statistic)
        panel.plot([first, last], [centre, centre], color="C0", linewidth=2)
        panel.fill_between([first, last], low, high, color="C0", alpha=0.2)


def _mean_value(record: Record) -> float:
    """Of the cohort; values sum to what the round gained."""
    return float(record["after"] - record["before"]) / int(record["clients"])


def _shown(found: Interval, digits: int, sign: str = "") -> str:
    centre, low, high = (f"{value:{sign}.{digits}f}" for value in found)
    return centre if low == high else f"{centre} [{low}, {high}]"

"""R-GAP and its rank analysis on CIFAR-10: ``python -m experiments.reproduce.rgap --out docs/results``.

`cnn6`, of which the ranks say that it gives its input away, and `cnn6_d`, of which they say that it does not;
fresh weights for each victim; the first test images, normalised; one image a gradient, in single and in
double precision. Where the closed form is incomplete, it is also the start of an optimisation, and
`inverting_gradients` stands beside that, from noise, for as many iterations and with the same prior.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from scipy.stats import quantile_test
from torch import Tensor

from adversary.rgap import RankAnalysis, rank_analysis
from experiments.reproduce.victims import CONSOLE, Task, arguments, attack, run_all
from fedsim import models

NAME = "rgap"
INPUT_SHAPE = (3, 32, 32)
CLASSES = 10
ITERATIONS = 600
EXACT = 160
"""Where the figure draws images that are exact in single precision, whose rounding alone costs about 155 dB."""

SETTINGS: list[tuple[str, str, str, dict[str, Any], Literal["float32", "float64"]]] = [
    ("cnn6, double precision", "cnn6", "rgap", {}, "float64"),
    ("cnn6, single precision", "cnn6", "rgap", {}, "float32"),
    ("cnn6_d, double precision", "cnn6_d", "rgap", {}, "float64"),
    ("cnn6_d, single precision", "cnn6_d", "rgap", {}, "float32"),
    ("cnn6_d, refined", "cnn6_d", "rgap", {"refine_iterations": ITERATIONS}, "float32"),
    (
        "cnn6_d, inverting_gradients",
        "cnn6_d",
        "inverting_gradients",
        {"iterations": ITERATIONS, "total_variation": 1e-3},
        "float32",
    ),
]
"""What is compared: title, model, attack, its parameters, precision of the gradient."""


def main() -> None:
    """Run what is missing, then write table, figure and pictures."""
    options = arguments(__doc__ or "", _configure)
    tasks = [
        Task(title, name, parameters, model, {}, victim, (victim,), normalise=True, precision=precision)
        for victim in range(options.victims)
        for title, model, name, parameters, precision in SETTINGS
    ]
    records = run_all(tasks, options.out, NAME, options.workers, predicted_attack)
    of = {title: [r for r in records if r["name"] == title] for title, *_ in SETTINGS}
    text = [
        "# R-GAP and rank analysis",
        f"CIFAR-10, the first {options.victims} test images, normalised, one a gradient; fresh weights for each "
        "victim. Every victim counts. PSNR is of the reconstruction as returned, in single precision, and not "
        "capped; `exact` means that every pixel is the same number. Intervals are for the median over victims, at "
        "95 %, by order statistics.",
        "Made by `make reproduce-rgap`, on one thread of a CPU, which also writes the originals above the "
        "reconstructions to `docs/results/pictures/`.",
        "A Flower client of fedsim computes in single precision; double precision is that of a client that casts "
        "network and image beforehand. R-GAP itself computes in double precision in both cases.",
        _overview(of),
        f"![PSNR of each victim]({NAME}.svg)",
        "## What the ranks say beforehand",
        "At the first victim's weights and a random image. A layer gives its input away if the rank is the number "
        "of unknowns.",
        *(_ranks(model) for model in ("cnn6", "cnn6_d")),
        "## Each victim",
        *(f"### {title}\n\n{_table(own)}" for title, own in of.items()),
    ]
    (options.out / f"{NAME}.md").write_text("\n\n".join(text) + "\n")
    _figure(of, options.out / f"{NAME}.svg")


def predicted_attack(task: Task) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What the ranks predict at the victim's weights, and then the attack."""
    analysis = _analysis(task.model, task.victim)
    record, truth, found = attack(task)
    predicted = "leaks" if analysis.leaks else _gaps(analysis)
    return record | {"precision": task.precision, "predicted": predicted}, truth, found


def decibels(record: dict[str, Any]) -> float:
    """PSNR without the cap of scoring; infinite if every pixel is the same number in single precision."""
    return math.inf if record["mse"] == 0 else -10 * math.log10(record["mse"])


def written(value: float) -> str:
    """Decibels for a table; fewer than six victims give no interval."""
    if math.isnan(value):
        return "-"
    return "exact" if math.isinf(value) else f"{value:.1f}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the median, by order statistics: no distribution is assumed."""
    found = quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    return float(found.low), float(found.high)


@functools.lru_cache(maxsize=2)
def _analysis(model: str, victim: int) -> RankAnalysis:
    return rank_analysis(models.build(model, INPUT_SHAPE, CLASSES, seed=victim), INPUT_SHAPE)


def _gaps(analysis: RankAnalysis) -> str:
    gaps = [f"{x.layer} ({x.rank} of {x.unknowns})" for x in analysis.layers if not x.solvable]
    return f"hidden at {', '.join(gaps)}"


def _overview(of: dict[str, list[dict[str, Any]]]) -> str:
    rows = [
        "| setting | victims | predicted to leak | median PSNR, dB | interval | least | most | grey, dB "
        "| labels right | seconds a victim |",
        "|" + " --- |" * 10,
    ]
    for title, own in of.items():
        values = [decibels(r) for r in own]
        low, high = interval(values)
        rows.append(
            f"| {title} | {len(own)} | {sum(r['predicted'] == 'leaks' for r in own)} | {written(median(values))} "
            f"| {written(low)} to {written(high)} | {written(min(values))} | {written(max(values))} "
            f"| {median(r['baseline_psnr'] for r in own):.1f} | {sum(r['label_accuracy'] == 1 for r in own)} "
            f"| {sum(r['seconds'] for r in own) / len(own):.1f} |"
        )
        CONSOLE.print(rows[-1])
    return "\n".join(rows)


def _ranks(model: str) -> str:
    analysis = _analysis(model, 0)
    rows = [
        f"`{model}`: {'leaks' if analysis.leaks else _gaps(analysis)}.",
        "",
        "| layer | unknowns | weight constraints | gradient constraints | numerical rank | solvable |",
        "|" + " --- |" * 6,
        *(
            f"| {x.layer} ({x.kind}) | {x.unknowns} | {x.weight_constraints} | {x.gradient_constraints} | {x.rank} "
            f"| {'yes' if x.solvable else '**no**'} |"
            for x in analysis.layers
        ),
    ]
    return "\n".join(rows)


def _table(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        f"| {r['victim']} | {written(decibels(r))} | {r['mse']:.1e} | {r['ssim']:.3f} | {r['baseline_psnr']:.1f} "
        f"| {r['predicted']} | {r['seconds']:.1f} | {r['stopped_by']} |"
        for r in records
    ]
    head = "| victim, test image | PSNR, dB | MSE | SSIM | grey, dB | ranks predict | seconds | stopped by |"
    return "\n".join([head, "|" + " --- |" * 8, *rows])


def _figure(of: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """PSNR of each victim, a row a setting."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for row, own in enumerate(of.values()):
        values = [min(decibels(r), EXACT) for r in own]
        axes.plot(values, [row] * len(own), "o", alpha=0.5, color="tab:red" if row < 2 else "tab:blue")
        axes.plot([median(values)], [row], "|", color="black", markersize=18)
    axes.set_yticks(range(len(of)), list(of))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"PSNR of each victim, dB (bar: median; exact ones at {EXACT})")
    axes.grid(axis="x", alpha=0.3)
    # Text as text, and no date or random names: the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": NAME}):
        figure.savefig(path, metadata={"Date": None})


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--victims", type=int, default=10, help="number of victims")


if __name__ == "__main__":
    main()

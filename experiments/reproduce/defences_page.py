"""Table and figure of utility against leakage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import binomtest

from experiments.reproduce.updates import interval

Record = dict[str, Any]

LESS = 0.1
"""Decibels by which an attack has to be worse to count as worse."""
MARKERS = "osD^v<>pPX*h"

HEAD = """# Utility against leakage

Made by `make reproduce-defences` (`python -m experiments.reproduce.defences`), on one thread of a CPU. CIFAR-10, 400
clients of ten images, {rounds} rounds of twenty clients; `cnn` with GELU; FedSGD with one image a gradient and Adam at
the server, unless the row says otherwise (FedAvg gives its mean update to the same Adam). Each row is one run of
fedsim: its test accuracy, with the 95 % interval over {tested:,} test images (Wilson's), and
`inverting_gradients` with {iterations} iterations on what {victims} clients sent in the first round of that run. The
blind attack knows of no defence; the `adaptive` one knows its name and strength; both begin at the same point. The same
clients with the same images are attacked in each row, but for the larger batches, which have more of them. Medians over
victims with 95 % bootstrap intervals; the difference is the median of the victims' own differences. A uniform grey
scores {grey:.1f} dB. One run a row: differences in accuracy within the intervals say nothing. Measured so
far: {done} of {settings} settings."""


def write_page(folder: Path, name: str, records: Sequence[Record], settings: int) -> None:
    """Write ``name.md`` and its figure; ``settings`` is how many the whole table has."""
    first = records[0]
    (folder / "images").mkdir(exist_ok=True)
    figure(records).savefig(folder / "images" / f"{name}.png", dpi=110)
    head = HEAD.format(
        rounds=first["rounds"],
        tested=first["tested"],
        iterations=first["iterations"],
        victims=len(first["adaptive"]),
        done=len(records),
        settings=settings,
        grey=median(score["baseline_psnr"] for score in first["adaptive"]),
    )
    text = [head, f"![Accuracy over PSNR](images/{name}.png)", table(records), knowing(records)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record]) -> str:
    """A row a setting."""
    rows = [
        "| defence | strength | accuracy | blind, dB | adaptive, dB | difference, dB | worse in | labels, adaptive |",
        "|" + " --- |" * 8,
    ]
    for record in records:
        blind, adaptive = pairs(record)
        difference = [after - before for before, after in zip(blind, adaptive, strict=True)]
        labels = [score["label_accuracy"] for score in record["adaptive"]]
        rows.append(
            f"| {record['defence'].replace('_', ' ')} | {strength(record)} | {_accuracy(record)} | {_written(blind)} "
            f"| {_written(adaptive)} | {_written(difference, '+')} | {sum(d < -LESS for d in difference)} of "
            f"{len(difference)} | {sum(labels) / len(labels):.0%} |"
        )
    return "\n".join(rows)


def knowing(records: Sequence[Record]) -> str:
    """Where the adaptive attack is at least as good as the blind one, and where it is not."""
    both = [(record, *pairs(record)) for record in records]
    worse = [_title(record) for record, blind, adaptive in both if median(adaptive) < median(blind) - LESS]
    text = f"The adaptive attack's median is at least the blind one's in {len(both) - len(worse)} of {len(both)} rows"
    return text + (f"; not in {', '.join(worse)}." if worse else ".")


def pairs(record: Record) -> tuple[list[float], list[float]]:
    """PSNR of the blind and of the adaptive attack, victim by victim."""
    of = [{score["client"]: score["psnr"] for score in record[who]} for who in ("blind", "adaptive")]
    return [of[0][client] for client in of[1]], list(of[1].values())


def strength(record: Record) -> str:
    """A setting's parameters in words, and the privacy that they cost."""
    given = record["strength"] | {name: value for name, value in record["training"].items() if name in SHOWN}
    words = [f"{SHOWN.get(name, name.replace('_', ' '))} {_value(value)}" for name, value in given.items()]
    if record["epsilon"] is not None:
        words.append(f"epsilon {record['epsilon']:.3g}")
    return ", ".join(words)


SHOWN = {"batch_size": "batch", "local_epochs": "FedAvg, local epochs"}


def figure(records: Sequence[Record]) -> Figure:
    """Accuracy over PSNR: what the adaptive attack gets filled, the blind one hollow."""
    drawn = Figure(figsize=(8.5, 5.2), layout="constrained")
    panel = drawn.subplots()
    names = list(dict.fromkeys(record["defence"] for record in records))
    for number, name in enumerate(names):
        own = [record for record in records if record["defence"] == name]
        colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
        accuracy = [100 * record["accuracy"] for record in own]
        found = [interval(pairs(record)[1]) for record in own]
        below, above = ([abs(f[0] - f[i]) for f in found] for i in (1, 2))
        panel.errorbar(
            [f[0] for f in found],
            accuracy,
            xerr=[below, above],
            color=colour,
            marker=marker,
            linewidth=0.8,
            elinewidth=0.5,
            label=name.replace("_", " "),
        )
        blind = [median(pairs(record)[0]) for record in own]
        panel.plot(blind, accuracy, marker, color=colour, fillstyle="none", alpha=0.5)
    panel.set(
        xlabel="PSNR, dB (median of victims; filled: adaptive, hollow: blind)", ylabel="accuracy after training, %"
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def _title(record: Record) -> str:
    return f"{record['defence'].replace('_', ' ')} ({strength(record)})"


def _accuracy(record: Record) -> str:
    found = binomtest(round(record["accuracy"] * record["tested"]), record["tested"]).proportion_ci(method="wilson")
    return f"{record['accuracy']:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _written(values: Sequence[float], sign: str = "") -> str:
    centre, low, high = interval(values)
    return f"{centre:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"`{item}`" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Tables and figure of the leakage over a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from experiments.reproduce.updates import interval

Record = dict[str, Any]

TITLES = {"fedsgd": "FedSGD, one gradient", "fedavg": "FedAvg, four local steps"}

HEAD = """# Leakage over a training

Made by `make reproduce-leakage-over-training` (`python -m experiments.reproduce.leakage_over_training`), on one thread
of a CPU; the attacks took {minutes:.0f} minutes. CIFAR-10; a `cnn` with GELU; 20 clients of 100 images train it, and
{victims} clients of one image and {victims} of four are attacked: **{victims} victims a row, the same clients with the
same images in every round**. FedSGD steps Adam on the server; FedAvg's clients make four full-batch steps at a learning
rate of 0.03, and the server combines the models by FedAdam. {iterations} iterations of each attack inside the protocol,
one start, every preset's own defaults, labels recovered from the update.

Test accuracy is that of the model attacked, before the round's update. PSNR: median over victims with its 95 %
bootstrap interval, which with so few victims is rough. A uniform grey is scored beside; every victim counts, `below
grey` says how many reconstructions are no better than it, and `failed` how many attacks broke numerically and are
scored as grey. Labels: mean share of a victim's labels that was found. There is one federation and
one seed for each algorithm: the intervals are over victims alone."""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` and ``name.png``.

    Args:
        folder: where to.
        name: of the files, without suffix.
        records: a line a reconstruction, in the order of the page.
    """
    _figure(records).savefig(folder / f"{name}.png", dpi=100)
    text = [
        HEAD.format(
            victims=max(len(own) for own in _split(records, "algorithm", "attack", "round", "examples").values()),
            iterations=max(record["asked"] for record in records),
            minutes=sum(record["seconds"] for record in records) / 60,
        ),
        f"![PSNR and test accuracy over rounds]({name}.png)",
    ]
    for (algorithm, examples), own in _split(records, "algorithm", "examples").items():
        text += [f"## {TITLES[algorithm]}, {_images(examples)} a client", table(own)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record]) -> str:
    """A row an attacked round and attack."""
    rows = [
        "| round | test accuracy | attack | PSNR, dB | grey, dB | below grey | failed | SSIM | labels | seconds |",
        "|" + " --- |" * 10,
    ]
    for (number, attack), own in _split(records, "round", "attack").items():
        centre, low, high = interval([r["psnr"] for r in own])
        rows.append(
            f"| {number} | {own[0]['test_accuracy']:.0%} | `{attack}` | {centre:.1f} [{low:.1f}, {high:.1f}] "
            f"| {median(r['baseline_psnr'] for r in own):.1f} "
            f"| {sum(r['psnr'] <= r['baseline_psnr'] for r in own)} of {len(own)} "
            f"| {sum(r['stopped_by'].startswith('failed') for r in own)} | {median(r['ssim'] for r in own):.3f} "
            f"| {sum(r['label_accuracy'] for r in own) / len(own):.0%} | {median(r['seconds'] for r in own):.1f} |"
        )
    return "\n".join(rows)


def _images(number: int) -> str:
    return "one image" if number == 1 else f"{number} images"


def _split(records: Sequence[Record], *keys: str) -> dict[tuple[Any, ...], list[Record]]:
    """Records by what they have in common, in the order of their first."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record[key] for key in keys), []).append(record)
    return found


def _figure(records: Sequence[Record]) -> Figure:
    """PSNR of each attack over rounds, a panel an algorithm and number of images, with the test accuracy above."""
    panels = _split(records, "examples", "algorithm")
    columns = len({algorithm for _, algorithm in panels})
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for panel, (examples, algorithm) in zip(axes, sorted(panels, key=_place), strict=False):
        own = panels[examples, algorithm]
        for (attack,), of_attack in _split(own, "attack").items():
            points = {n: interval([r["psnr"] for r in some]) for (n,), some in _split(of_attack, "round").items()}
            centres = [p[0] for p in points.values()]
            below, above = ([abs(p[0] - p[i]) for p in points.values()] for i in (1, 2))
            panel.errorbar(list(points), centres, yerr=[below, above], marker="o", capsize=2, label=attack)
        grey = median(r["baseline_psnr"] for r in own)
        panel.axhline(grey, color="grey", linestyle=":", label="uniform grey")
        accuracy = {record["round"]: record["test_accuracy"] for record in own}
        ticks = [f"{number}\n{share:.0%}" for number, share in accuracy.items()]
        panel.set(title=f"{TITLES[algorithm]}, {_images(examples)}", xscale="log")
        panel.set_xticks(list(accuracy), ticks)
        panel.minorticks_off()
        panel.set_xlabel("round, and test accuracy of the model attacked")
        panel.legend(fontsize=8)
    for panel in axes[::columns]:
        panel.set_ylabel("PSNR, dB (median of victims)")
    return figure


def _place(key: tuple[int, str]) -> tuple[int, int]:
    examples, algorithm = key
    return examples, list(TITLES).index(algorithm)

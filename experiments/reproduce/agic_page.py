"""Table and figure of the attacks on model updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from experiments.reproduce.updates import interval

Record = dict[str, Any]

SHOWN = ("dlg", "inverting_gradients", "agic", "sme", "simulation", "midas")

HEAD = """# Attacks on model updates

Made by `make reproduce-agic` (`python -m experiments.reproduce.agic`), on one thread of a CPU a victim. CIFAR-10, the
first test images, {victims} clients of 4 images at 8 local epochs, fewer elsewhere, as said; `cnn` with GELU, fresh
weights for each victim, normalised inputs, full-batch local epochs unless said otherwise. {iterations}
iterations of each attack, one start, labels recovered by the attack, the order of batches unknown. `dlg` and
`inverting_gradients` take the raw update for one gradient, which for DLG its preset would refuse. Every victim
counts; medians over victims with 95 % bootstrap intervals. PSNR of a uniform grey: {grey:.1f} dB."""


def write_page(folder: Path, name: str, records: Sequence[Record], *, victims: int, iterations: int) -> None:
    """Write ``name.md`` and its figure."""
    grey = median(r["baseline_psnr"] for r in records)
    text = [HEAD.format(victims=victims, iterations=iterations, grey=grey)]
    groups = list(dict.fromkeys(_group(record) for record in records))
    main = [group for group in groups if group.startswith("epochs")]
    if main:
        (folder / "images").mkdir(exist_ok=True)
        _figure(records, main).savefig(folder / "images" / f"{name}.png", dpi=110)
        text.append(f"![PSNR over local epochs](images/{name}.png)")
    for group in groups:
        own = [record for record in records if _group(record) == group]
        text += [f"## {_title(own[0])}", f"{len({r['victim'] for r in own})} victims.", table(own)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record]) -> str:
    """A row an attack: medians over its victims, and ratios to ``simulation`` on the same victims."""
    rows = [
        "| attack | PSNR, dB | SSIM | labels | seconds | ms an iteration | dB to `simulation` | of its seconds |",
        "|" + " --- |" * 8,
    ]
    reference = {r["victim"]: r for r in records if r["attack"] == "simulation"}
    for attack in (a for a in SHOWN if any(r["attack"] == a for r in records)):
        own = [r for r in records if r["attack"] == attack]
        centre, low, high = interval([r["psnr"] for r in own])
        pairs = [(r, reference[r["victim"]]) for r in own if r["victim"] in reference]
        difference = f"{centre - median(s['psnr'] for _, s in pairs):+.1f}" if pairs else ""
        share = f"{median(r['seconds'] / s['seconds'] for r, s in pairs):.2f}" if pairs else ""
        rows.append(
            f"| `{attack}` | {centre:.1f} [{low:.1f}, {high:.1f}] | {median(r['ssim'] for r in own):.3f} "
            f"| {sum(r['label_accuracy'] for r in own) / len(own):.0%} | {median(r['seconds'] for r in own):.1f} "
            f"| {median(1e3 * r['seconds'] / max(1, r['iterations']) for r in own):.1f} | {difference} | {share} |"
        )
    return "\n".join(rows)


def _group(record: Record) -> str:
    name: str = record["name"]
    return name[: name.index(f"-{record['attack']}-")]


def _title(record: Record) -> str:
    batch = "full batches" if record["batch_size"] is None else f"batches of {record['batch_size']}"
    activation = record["model_parameters"].get("activation", "relu")
    trained = f", after {record['training']} steps of training" if record["training"] else ""
    return (
        f"{len(record['images'])} images, {record['epochs']} local epochs in {batch}, learning rate "
        f"{record['learning_rate']:g}, {activation}{trained}"
    )


def _figure(records: Iterable[Record], groups: Sequence[str]) -> Figure:
    own = [record for record in records if _group(record) in groups]
    rates = sorted({record["learning_rate"] for record in own})
    figure = Figure(figsize=(4.5 * len(rates), 3.6), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for panel, rate in zip(panels, rates, strict=True):
        for attack in SHOWN:
            points = {}
            for epochs in sorted({record["epochs"] for record in own}):
                values = [
                    r["psnr"] for r in own if (r["attack"], r["epochs"], r["learning_rate"]) == (attack, epochs, rate)
                ]
                if values:
                    points[epochs] = interval(values)
            if points:
                centres = [p[0] for p in points.values()]
                below, above = ([abs(p[0] - p[i]) for p in points.values()] for i in (1, 2))
                panel.errorbar(list(points), centres, yerr=[below, above], marker="o", capsize=2, label=attack)
        panel.set(title=f"learning rate {rate:g}", xlabel="local epochs", xscale="log")
        panel.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        panel.minorticks_off()
    panels[0].set_ylabel("PSNR, dB (median of victims)")
    panels[-1].legend(fontsize=8)
    return figure

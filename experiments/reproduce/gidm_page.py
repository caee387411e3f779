"""Tables of the attacks on gradients of a diffusion loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments.reproduce.updates import interval

Record = dict[str, Any]

EXACT_ENOUGH = 25.0
"""Decibels from which a reconstruction is counted as found."""

HEAD = """# Attacks on gradients of a diffusion loss

Made by `make reproduce-gidm` (`python -m experiments.reproduce.gidm`), on one thread of a CPU. Fashion-MNIST at 28x28,
test images from the 65th on, one image a gradient; a UNet of 636,465 parameters, v-prediction, 16 steps of the sigmoid
schedule, single precision. **Set A: noise and step are known**, a much stronger observation than an honest server
has. `fresh` victims have weights of their own, `trained` ones those of a model after {training} steps of Adam on the
training split; that model is the prior of `gidm` in both. Steps go up from victim to victim, from 0 to 15 over eight;
below are those of the victims that have been attacked so far.

Every search of pixels has 400 iterations from each of at most two starts; `gidm` and `pixels` search by L-BFGS, as
`dlg` does. `gidm` first has 30 iterations of Adam for the latent from each of two starts, through four steps of DDIM;
its first search of pixels begins at the image found, its second at noise. `pixels` is that search alone, from noise.

The settings of `gidm` were chosen on other victims (test images, weights and noise), those of the others were not; no
two methods begin at the same point.

PSNR, at most 100 dB: median over victims with its 95 % bootstrap interval; a uniform grey scores {grey:.1f} dB. Every
victim counts; `explains` is the relative squared gap that is left of the gradient (`inverting_gradients`: one minus the
cosine). CPU seconds are the attack's own."""


def write_page(folder: Path, name: str, records: Sequence[Record], *, training: int) -> None:
    """Write ``name.md`` of the records that there are.

    Args:
        folder: where to.
        name: of the file, without suffix.
        records: a line a reconstruction.
        training: steps of the trained model.
    """
    grey = median(r["baseline_psnr"] for r in records)
    text = [HEAD.format(training=f"{training:,}", grey=grey)]
    for state in dict.fromkeys(record["state"] for record in records):
        own = [record for record in records if record["state"] == state]
        text += [f"## {state.capitalize()} networks", table(own), each(own)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record]) -> str:
    """A row a method."""
    rows = [
        "| method | victims | PSNR, dB | found (25 dB) | SSIM | explains | iterations | CPU seconds |",
        "|" + " --- |" * 8,
    ]
    for method in dict.fromkeys(_method(r) for r in records):
        own = [r for r in records if _method(r) == method]
        centre, low, high = interval([r["psnr"] for r in own])
        gaps = [r["loss"] for r in own if r["loss"] is not None]
        rows.append(
            f"| `{method}` | {len(own)} | {centre:.1f} [{low:.1f}, {high:.1f}] "
            f"| {sum(r['psnr'] >= EXACT_ENOUGH for r in own)} of {len(own)} | {median(r['ssim'] for r in own):.3f} "
            f"| {f'{median(gaps):.1e}' if gaps else 'nothing'} | {median(r['iterations'] for r in own):.0f} "
            f"| {median(r['cpu_seconds'] for r in own):.1f} |"
        )
    return "\n".join(rows)


def each(records: Sequence[Record]) -> str:
    """PSNR of each victim, a column a method."""
    methods = list(dict.fromkeys(_method(r) for r in records))
    rows = [
        "| test image | step | " + " | ".join(f"`{m}`, dB" for m in methods) + " |",
        "|" + " --- |" * (2 + len(methods)),
    ]
    for victim in dict.fromkeys(r["victim"] for r in records):
        own = {_method(r): r for r in records if r["victim"] == victim}
        cells = [f"{own[m]['psnr']:.1f}" if m in own else "" for m in methods]
        one = next(iter(own.values()))
        rows.append(f"| {one['images'][0]} | {one['t']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _method(record: Record) -> str:
    name: str = record["name"]
    return name.removeprefix(f"{record['state']}-")

"""Tables of the attacks on gradients of a diffusion loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments.reproduce.gidm_picture import ROWS
from experiments.reproduce.updates import interval

Record = dict[str, Any]

EXACT_ENOUGH = 25.0
"""Decibels from which a reconstruction is counted as found."""

HEAD = """# Attacks on gradients of a diffusion loss

Made by `make reproduce-gidm` (`python -m experiments.reproduce.gidm`), on one thread of a CPU. Fashion-MNIST at 28x28,
test images from the 65th on, one image a gradient; a UNet of 636,465 parameters, v-prediction, 16 steps of the sigmoid
schedule, single precision. **Set A: noise and step are known**, a much stronger observation than an honest server
has. `fresh` victims have weights of their own, `trained` ones those of a model after {training} steps of Adam on the
training split; that model is the prior of `gidm` in both. Steps go up from victim to victim, from 0 to 15 over eight.

Every search of pixels has up to 500 iterations from each start, by L-BFGS in `gidm`, `pixels` and `dlg`, which end
when the relative squared gap to the gradient is below 1e-9 and begin a second time only where the first start ends
above 1e-3; and by signed Adam from one start in `inverting_gradients`, whose objective does not tell. In each
start `gidm` first draws 64 latents, takes the one whose image, by four steps of DDIM, explains the gradient best, and
improves it by 20 iterations of Adam at 0.1; its search of pixels begins at the image found. `pixels` is that search
alone, from noise. `gidm, from features` is not the paper's: in its first start the search of pixels begins at the image
that the gradient gives away in closed form (`start = "features"`; see
[attacks.md](../attacks.md#nothing-granted-gidm_plus)), and the prior is not asked.{once}

{tuned}

PSNR, at most 100 dB: median over victims with its 95 % bootstrap interval; a uniform grey scores {grey:.1f} dB. Every
victim counts; `gap` is the relative squared one that is left of the gradient (`inverting_gradients`: one minus the
cosine). CPU seconds are the attack's own, of the whole search and until the objective is first below 1e-3; who
never came there counts with the whole search."""

TUNED = """The settings of `gidm` were chosen on other victims (test images 0 to 3, other weights and noise), those of
the others were not; no two methods begin at the same point. Why trained victims are lost at early steps, and what was
tried against it, stands in [attacks.md](../attacks.md#gradients-of-a-diffusion-loss)."""

PRIORS = """## Priors

The trained victims again, through several priors from the same latents: `all steps` is the trained model by 15 steps
of DDIM, all those in which there is at least a hundredth of the image; `four steps` the same model by four; `student`
one of four steps distilled from it (SFDDM, {distilling} batches of the training split, from the teacher's weights),
over its own schedule; `random` fresh weights. `first` is the first search alone, 64 latents and 20 iterations; `both`
goes on with the pixels; each from one start. What a prior costs is told by the first search: the one for pixels is the
same for all, so that with both the cheaper prior saves little."""

STEP_WITHHELD = """## Set B: the step is not known

`gidm` reads it from the gradient of the time embedding, and then does as in set A, from the same latents. Trained
victims; the step was read rightly in {right} of {count}, and the image is that of set A to 0.1 dB in {alike}."""


def write_page(folder: Path, name: str, records: Sequence[Record], *, training: int, distilling: int) -> None:
    """Write ``name.md`` of the records that there are, with ``name.png`` if it is there.

    Args:
        folder: where to.
        name: of the file, without suffix.
        records: a line a reconstruction.
        training: steps of the trained model.
        distilling: steps of its student.
    """
    grey = median(r["baseline_psnr"] for r in records)
    methods = [record for record in records if not record["variant"]]
    text = [HEAD.format(training=f"{training:,}", grey=grey, tuned=TUNED, once=_once(methods))]
    if (folder / f"{name}.png").exists():
        rows = "the truth; the first search of `gidm`; " + "; ".join(f"`{method}`" for method in ROWS[1:])
        text.append(f"![Trained victims, one a column]({name}.png)\n\nTrained victims, one a column. Rows: {rows}.")
    for state in dict.fromkeys(record["state"] for record in methods):
        own = [record for record in methods if record["state"] == state]
        text += [f"## {state.capitalize()} networks", table(own), each(own)]
    priors = [record for record in records if record["variant"].startswith("/") and record["variant"] != "/B"]
    if priors:
        label = _prior
        text += [PRIORS.format(distilling=f"{distilling:,}"), table(priors, label), each(priors, label)]
    withheld = [record for record in records if record["variant"] == "/B"]
    if withheld:
        text += [_withheld(withheld, methods), table(withheld), each(withheld)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record], label: Callable[[Record], str] | None = None) -> str:
    """A row a method."""
    label = label or _method
    rows = [
        "| method | victims | PSNR, dB | found (25 dB) | SSIM | gap | iterations | CPU seconds | until 1e-3 |",
        "|" + " --- |" * 9,
    ]
    for method in dict.fromkeys(label(r) for r in records):
        own = [r for r in records if label(r) == method]
        centre, low, high = interval([r["psnr"] for r in own])
        gaps = [r["loss"] for r in own if r["loss"] is not None]
        rows.append(
            f"| `{method}` | {len(own)} | {centre:.1f} [{low:.1f}, {high:.1f}] "
            f"| {sum(r['psnr'] >= EXACT_ENOUGH for r in own)} of {len(own)} | {median(r['ssim'] for r in own):.3f} "
            f"| {f'{median(gaps):.1e}' if gaps else 'nothing'} | {median(r['iterations'] for r in own):.0f} "
            f"| {median(r['cpu_seconds'] for r in own):.1f} | {median(_until(r) for r in own):.1f} |"
        )
    return "\n".join(rows)


def each(records: Sequence[Record], label: Callable[[Record], str] | None = None) -> str:
    """PSNR of each victim, a column a method."""
    label = label or _method
    methods = list(dict.fromkeys(label(r) for r in records))
    rows = [
        "| test image | step | " + " | ".join(f"`{m}`, dB" for m in methods) + " |",
        "|" + " --- |" * (2 + len(methods)),
    ]
    for victim in sorted({r["victim"] for r in records}):
        own = {label(r): r for r in records if r["victim"] == victim}
        cells = [f"{own[m]['psnr']:.1f}" if m in own else "" for m in methods]
        one = next(iter(own.values()))
        rows.append(f"| {one['images'][0]} | {one['t']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _once(records: Sequence[Record]) -> str:
    """Which victims had no second start though their first one failed; such records may be among older ones."""
    failed = [r for r in records if r["loss"] is not None and r["loss"] > 1e-3 and r["attack"] in ("gidm", "dlg")]
    found = sorted({r["images"][0] for r in failed if r["parameters"].get("restarts", 1) < 2})
    listed = ", ".join(map(str, found))
    return f"\nVictims with one start so far, though it failed: test images {listed}." if found else ""


def _withheld(records: Sequence[Record], methods: Sequence[Record]) -> str:
    known = {r["victim"]: r for r in methods if r["name"] == "trained-gidm"}
    alike = [r for r in records if r["victim"] in known and abs(r["psnr"] - known[r["victim"]]["psnr"]) < 0.1]
    right = sum(r["step_read"] == r["t"] for r in records)
    return STEP_WITHHELD.format(right=right, count=len(records), alike=len(alike))


def _until(record: Record) -> float:
    seconds: float | None = record["cpu_seconds_to_explain"]
    return float(record["cpu_seconds"]) if seconds is None else seconds


def _method(record: Record) -> str:
    name: str = record["name"]
    return name.removeprefix(f"{record['state']}-")


def _prior(record: Record) -> str:
    variant: str = record["variant"]
    return variant.removeprefix("/").replace("/", ", ")

"""Tables of the attacks on gradients of a diffusion loss of which nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments.reproduce.updates import interval

Record = dict[str, Any]

HEAD = """# Gradients of a diffusion loss, with nothing known

Made by `make reproduce-gidm-plus` (`python -m experiments.reproduce.gidm_plus`), on one thread of a CPU. Fashion-MNIST,
test images from the 65th on, one image a gradient; UNets of the widths given, v-prediction, 16 steps of the sigmoid
schedule; clients compute in single precision. **Set D: neither the noise nor the step is known**, nothing is granted.
`fresh` victims have weights of their own, `trained` ones those of a model after some minutes of training on the
training split. Steps go up from victim to victim, from 0 to 15 over eight. Below is what has been run; a column says on
how many victims.

- `gidm_plus` reads the step from the time embedding's gradient. Then, where a convolution of the network has as many
  output channels as positions, what it was fed follows from its gradient in closed form, and from that the noisy image
  and the residual; up to 100 iterations of L-BFGS in double precision follow. Else it searches for image and noise from
  up to five random starts.
- `closed form` is the same without the search at the end.
- `search from noise` has one random start and 500 iterations.
- `..., noise guessed`: attacks for known noise, which are given one drawn at random, and the step that was read.

PSNR, at most 100 dB: median over victims with its 95 % bootstrap interval; every victim counts. `explains` is the
relative squared gap that is left of the gradient (`inverting_gradients`: one minus the cosine). CPU seconds are the
attack's own."""

STEPS = """## The step

Images of 8x8, fresh networks of widths 8 and 16, noise unknown: how often each way finds the step. `enumerate` searches
200 iterations at each of the 16 steps; `soft` and `gumbel` search image, noise and weights of the steps together, for
as many in all."""


def write_page(folder: Path, name: str, records: Sequence[Record]) -> None:
    """Write ``name.md`` of the records that there are.

    Args:
        folder: where to.
        name: of the file, without suffix.
        records: a line a task.
    """
    text = [HEAD]
    attacks = [r for r in records if not r["stepping"]]
    for setting in dict.fromkeys((r["side"], tuple(r["widths"])) for r in attacks):
        own = [r for r in attacks if (r["side"], tuple(r["widths"])) == setting]
        side, widths = setting
        grey = median(r["baseline_psnr"] for r in own)
        text += [f"## {side}x{side}, widths {', '.join(map(str, widths))} (a uniform grey: {grey:.1f} dB)", table(own)]
        text += ["By step, dB:", by_step(own)]
    tried = [r for r in records if r["stepping"]]
    if tried:
        text += [STEPS, of_steps(tried)]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def table(records: Sequence[Record]) -> str:
    """A row a method and state of the network."""
    rows = [
        "| network | method | victims | PSNR, dB | least, dB | SSIM | explains | iterations | CPU seconds |",
        "|" + " --- |" * 9,
    ]
    for state, method in dict.fromkeys((r["state"], _method(r)) for r in records):
        own = [r for r in records if (r["state"], _method(r)) == (state, method)]
        centre, low, high = interval([r["psnr"] for r in own])
        gaps = [r["loss"] for r in own if r["loss"] is not None]
        rows.append(
            f"| {state} | `{method}` | {len(own)} | {centre:.1f} [{low:.1f}, {high:.1f}] "
            f"| {min(r['psnr'] for r in own):.1f} | {median(r['ssim'] for r in own):.3f} "
            f"| {f'{median(gaps):.1e}' if gaps else 'nothing'} | {median(r['iterations'] for r in own):.0f} "
            f"| {median(r['cpu_seconds'] for r in own):.1f} |"
        )
    return "\n".join(rows)


def by_step(records: Sequence[Record]) -> str:
    """PSNR of each victim, a column a step of the schedule."""
    steps = sorted({r["t"] for r in records})
    rows = [
        "| network | method | " + " | ".join(f"step {t}" for t in steps) + " |",
        "|" + " --- |" * (2 + len(steps)),
    ]
    for state, method in dict.fromkeys((r["state"], _method(r)) for r in records):
        own = {r["t"]: r for r in records if (r["state"], _method(r)) == (state, method)}
        cells = [f"{own[t]['psnr']:.1f}" if t in own else "" for t in steps]
        rows.append(f"| {state} | `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def of_steps(records: Sequence[Record]) -> str:
    """How often each way to find the step is right, a row a way."""
    rows = ["| way | right | mean distance, steps | CPU seconds |", "|" + " --- |" * 4]
    for how in dict.fromkeys(r["stepping"] for r in records):
        own = [r for r in records if r["stepping"] == how]
        off = [abs(r["step_found"] - r["t"]) for r in own]
        rows.append(
            f"| `{how}` | {sum(d == 0 for d in off)} of {len(own)} | {sum(off) / len(off):.1f} "
            f"| {median(r['cpu_seconds'] for r in own):.1f} |"
        )
    return "\n".join(rows)


def _method(record: Record) -> str:
    name: str = record["name"]
    return name.split(f"-{record['state']}-", 1)[1]

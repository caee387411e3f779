"""The page of ``compare_breaching``: tables of what was measured, and whether the targets are reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]

DEFAULT_ITERATIONS = 24_000
"""Iterations of breaching's ``invertinggradients`` as it comes."""
VICTIMS = 10
"""Of a network, over which the target for the time to a quality is set."""


def write(records: Sequence[Record], file: Path) -> None:
    """All parts that have been measured, as Markdown."""
    text = [
        "# fedsim and breaching on the same gradients",
        "CIFAR-10, the first test images, normalised, one a gradient; fresh networks in evaluation mode, other weights "
        "for each victim; labels recovered by each library. `breaching` 0.1.2 from PyPI, attack `invertinggradients` "
        "as it comes (total variation 0.2) but for the iterations; ours is `inverting_gradients` as it comes (total "
        "variation 1e-5). One thread of a CPU, one after the other on the same machine. PSNR by "
        "`experiments.scoring` for both. CPU seconds are those of the process and hardly depend on what else the "
        "machine does; wall-clock seconds do.",
        "Made by `make compare-breaching`; lines in `compare-breaching.jsonl`. What has a line is not measured again: "
        "a run that was broken off goes on, and `--out` another folder measures everything anew.",
    ]
    for part, section in (("rate", _rate), ("same", _same), ("prior", _prior), ("quality", _quality)):
        own = [record for record in records if record["part"] == part]
        if own:
            text += section(own)
    file.write_text("\n\n".join(text) + "\n")


def _rate(records: Sequence[Record]) -> list[str]:
    text = ["## Eight LeNet victims"]
    for record in records:
        rates = {
            name: record["victim"] * record[name]["iterations"] / record[name]["cpu_seconds"]
            for name in ("breaching", "one by one", "together", "one's restarts", "compiled, first", "compiled, again")
            if name in record
        }
        rows = [
            f"| {name} | {record[name]['iterations']} | {record[name]['seconds']:.1f} "
            f"| {record[name]['cpu_seconds']:.1f} | {each:.0f} | {each / rates['breaching']:.1f} |"
            for name, each in rates.items()
        ]
        times = rates["together"] / rates["breaching"]
        text += [
            "breaching and ours one by one pay alike for every iteration and run fewer. *Together*: "
            "`adversary.inversion.reconstruct_many`, the writing down of its operations included. *One's restarts*: "
            "eight starting points of one of the victims in place of eight victims. *Compiled*: with `compiled=True`; "
            "the first run on a machine compiles, which the second finds in PyTorch's cache. CPU seconds include those "
            "of the compiler's processes.",
            "\n".join(
                [
                    "| | iterations | seconds | CPU seconds | victim-iterations a CPU second | times breaching's |",
                    "|" + " --- |" * 6,
                    *rows,
                ]
            ),
            f"Target, 5 times breaching's victim-iterations a second: {_verdict(times >= 5)} ({times:.1f} times, "
            "together and not compiled).",
        ]
    return text


def _same(records: Sequence[Record]) -> list[str]:
    head = (
        "| network | victim | iterations | PSNR, dB: breaching | ours | CPU seconds: breaching | ours "
        "| seconds: breaching | ours |"
    )
    rows = []
    for r in sorted(records, key=lambda r: (r["model"], r["iterations"], r["victim"])):
        theirs, ours = r["breaching"], r["fedsim"]
        rows.append(
            f"| {r['model']} | {r['victim']} | {r['iterations']} | {theirs['psnr']:.1f} | {ours['psnr']:.1f} "
            f"| {theirs['cpu_seconds']:.1f} | {ours['cpu_seconds']:.1f} "
            f"| {theirs['seconds']:.1f} | {ours['seconds']:.1f} |"
        )
    return ["## The same iterations", "\n".join([head, "|" + " --- |" * 9, *rows])]


def _prior(records: Sequence[Record]) -> list[str]:
    text = [
        "## What the total variation does on LeNet",
        "Both with other weights of the total variation than their defaults, 0.2 and 1e-5; ours all victims together. "
        "The 0.2 of breaching is of normalised images, whose differences are four times as large: 0.8 in our units. "
        "Where both end alike with the same weight, a difference in the table above is the prior's, not the search's.",
    ]
    for record in sorted(records, key=lambda r: r["iterations"]):
        rows = [
            f"| {name} | {weight} | {median(psnr):.1f} | {min(psnr):.1f} | {max(psnr):.1f} |"
            for name in ("breaching", "fedsim")
            for weight, psnr in record[name].items()
        ]
        head = "| | total variation | median PSNR, dB | least | most |"
        text += [
            f"### {record['iterations']} iterations, {record['victim']} victims",
            "\n".join([head, "|" + " --- |" * 5, *rows]),
        ]
    return text


def _quality(records: Sequence[Record]) -> list[str]:
    text = [
        "## Time to the PSNR that breaching ends with",
        "breaching runs to the end of its iterations, from one start, as its defaults say. Ours is run with budgets "
        "that double, as its step size falls by shares of the budget, until one ends at that PSNR or more; the time is "
        "that run's, which is what a user who sets that budget waits; *all tried* adds the smaller budgets before it. "
        "Shares are of CPU seconds: the two ran one after the other beside other work, which wall-clock seconds show.",
    ]
    for model, iterations in sorted({(r["model"], r["iterations"]) for r in records}):
        own = [r for r in records if (r["model"], r["iterations"]) == (model, iterations)]
        text += [f"### {model}, {iterations} iterations of breaching", *_times(own, iterations)]
    return text


def _times(records: Sequence[Record], iterations: int) -> list[str]:
    columns = (
        "victim", "breaching: PSNR, dB", "CPU seconds", "seconds",
        "ours: iterations", "PSNR, dB", "CPU seconds", "seconds", "share", "all tried, share",
    )  # fmt: skip
    rows, shares, walls = [], [], []
    for r in records:
        theirs, last = r["breaching"], r["tried"][-1]
        reached = last["psnr"] >= theirs["psnr"]
        shares.append(last["cpu_seconds"] / theirs["cpu_seconds"] if reached else float("inf"))
        walls.append(last["seconds"] / theirs["seconds"] if reached else float("inf"))
        total = sum(t["cpu_seconds"] for t in r["tried"]) / theirs["cpu_seconds"]
        rows.append(
            f"| {r['victim']} | {theirs['psnr']:.1f} | {theirs['cpu_seconds']:.1f} | {theirs['seconds']:.1f} "
            f"| {last['iterations']} | {last['psnr']:.1f} | {last['cpu_seconds']:.1f} | {last['seconds']:.1f} "
            f"| {f'{shares[-1]:.1%}' if reached else 'not reached'} | {total:.1%} |"
        )
    middle, wall = median(shares), median(walls)
    measured = f"(median {middle:.1%} of CPU seconds, {wall:.1%} of seconds, {len(records)} of {VICTIMS} victims)"
    so_far = " so far" if len(records) < VICTIMS else ""
    verdict = (
        f"Target, a tenth of breaching's seconds: {_verdict(middle <= 0.1)}{so_far} {measured}."
        if iterations == DEFAULT_ITERATIONS
        else f"{measured} The target, a tenth, is set against breaching's default of {DEFAULT_ITERATIONS} iterations "
        "and not measured here."
    )
    table = "\n".join(["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *rows])
    return [table, verdict]


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"

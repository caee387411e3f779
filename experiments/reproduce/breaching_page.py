"""The page of ``compare_breaching``: tables of what was measured, and whether the targets are reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]

DEFAULT_ITERATIONS = 24_000
"""Iterations of breaching's ``invertinggradients`` as it comes."""


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
        "Made by `make compare-breaching`; lines in `compare-breaching.jsonl`.",
    ]
    for part, section in (("rate", _rate), ("same", _same), ("quality", _quality)):
        own = [record for record in records if record["part"] == part]
        if own:
            text += section(own)
    file.write_text("\n\n".join(text) + "\n")


def _rate(records: Sequence[Record]) -> list[str]:
    text = ["## Eight LeNet victims"]
    for record in records:
        rates = {
            name: record["victim"] * record[name]["iterations"] / record[name]["cpu_seconds"]
            for name in ("breaching", "one by one", "together", "compiled, first", "compiled, again")
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
            "`adversary.inversion.reconstruct_many`, its tracing included. *Compiled*: with `compiled=True`, whose "
            "first run on a machine compiles for a minute or so.",
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


def _quality(records: Sequence[Record]) -> list[str]:
    text = [
        "## Time to the PSNR that breaching ends with",
        "breaching runs to the end of its iterations. Ours is run with budgets that double, as its step size falls by "
        "shares of the budget, until one ends at that PSNR or more; the time is that run's, which is what a user "
        "who sets that budget waits; *all tried* adds the smaller budgets before it.",
    ]
    for model, iterations in sorted({(r["model"], r["iterations"]) for r in records}):
        own = [r for r in records if (r["model"], r["iterations"]) == (model, iterations)]
        head = (
            "| victim | breaching: iterations | PSNR, dB | CPU seconds | ours: iterations | PSNR, dB | CPU seconds "
            "| share | all tried, share |"
        )
        rows, shares = [], []
        for r in own:
            theirs, last = r["breaching"], r["tried"][-1]
            reached = last["psnr"] >= theirs["psnr"]
            share = last["cpu_seconds"] / theirs["cpu_seconds"] if reached else float("inf")
            total = sum(t["cpu_seconds"] for t in r["tried"]) / theirs["cpu_seconds"]
            shares.append(share)
            rows.append(
                f"| {r['victim']} | {r['iterations']} | {theirs['psnr']:.1f} | {theirs['cpu_seconds']:.1f} "
                f"| {last['iterations']} | {last['psnr']:.1f} | {last['cpu_seconds']:.1f} "
                f"| {f'{share:.1%}' if reached else 'not reached'} | {total:.1%} |"
            )
        middle = median(shares)
        text += [
            f"### {model}, {iterations} iterations of breaching",
            "\n".join([head, "|" + " --- |" * 9, *rows]),
            f"Target, a tenth of breaching's seconds: {_verdict(middle <= 0.1)} (median {middle:.1%} of {len(own)})."
            if iterations == DEFAULT_ITERATIONS
            else f"Median share {middle:.1%} of {len(own)}. The target, a tenth, is set against breaching's default of "
            f"{DEFAULT_ITERATIONS} iterations and not measured here.",
        ]
    return text


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"

"""The comparison as a table in the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.compare.records import Comparison, Outcome, Summary
from experiments.compare.statistics import Mean, Waiting

NONE = "\N{EN DASH}"
"""What stands where nothing was measured."""


def columns(comparison: Comparison) -> list[str]:
    """The head of the table of configurations."""
    target = [] if comparison.target is None else [f"rounds to {percent(comparison.target)}", "reached"]
    return ["configuration", "runs", "final accuracy", "best accuracy", *target, *map(_psnr, _attacks(comparison))]


def rows(comparison: Comparison) -> list[list[str]]:
    """A row a configuration, as ``columns``."""
    return [_row(comparison, summary) for summary in comparison.summaries]


def pair_columns() -> list[str]:
    """The head of the table of pairs."""
    return ["pair", "seeds", "accuracy, difference", "p", "p (Holm)", "rounds, log-rank p", "p (Holm)"]


def pair_rows(comparison: Comparison) -> list[list[str]]:
    """A row a pair, as ``pair_columns``."""
    return [
        [
            f"{comparison.summaries[pair.first].label} - {comparison.summaries[pair.second].label}",
            str(pair.accuracy.count),
            _difference(pair.accuracy.difference, pair.accuracy.low, pair.accuracy.high),
            chance(pair.accuracy.p),
            chance(pair.accuracy.p_holm),
            chance(pair.speed),
            chance(pair.speed_holm),
        ]
        for pair in comparison.pairs
    ]


def terminal(comparison: Comparison) -> list[Table]:
    """For rich to print."""
    tables = [_rich(columns(comparison), rows(comparison))]
    return [*tables, _rich(pair_columns(), pair_rows(comparison))] if comparison.pairs else tables


def markdown(comparison: Comparison, sentences: Sequence[str]) -> str:
    """``compare.md``."""
    parts = [f"# {_cell(comparison.name)}, compared", *map(_cell, sentences)]
    parts.append(_table(columns(comparison), rows(comparison)))
    if comparison.pairs:
        parts.append(_table(pair_columns(), pair_rows(comparison)))
    parts += ["\n".join(f"- {_cell(line)}" for line in notes(comparison))]
    if comparison.failures:
        parts += ["## Runs that failed", "\n".join(f"- {_cell(line)}" for line in failures(comparison))]
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison, sentences: Sequence[str]) -> str:
    """``compare.json``: everything the tables and the page show, and each run."""
    content = {"answer": list(sentences), **dataclasses.asdict(comparison)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_path) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """How the numbers came about."""
    said = [
        "Means over seeds with Student's 95 % interval; differences are tested in pairs of the same seed (Student's "
        "paired test), corrected by Holm for the number of pairs.",
    ]
    if comparison.target is not None:
        chosen = "" if comparison.target_given else f", 99 % of the best of {comparison.summaries[0].label}"
        said.append(
            f"Rounds to a test accuracy of {percent(comparison.target)}{chosen}: the median of Kaplan and Meier's "
            "estimate with its 95 % interval. A run that did not get there, or failed before, counts as one that "
            f"needs more rounds than it had; {NONE} is a median or limit that these runs do not show."
        )
    return said


def failures(comparison: Comparison) -> list[str]:
    """A line a run that failed."""
    return [f"{label}, seed {run.seed}, after round {run.last}: {run.failure}" for label, run in comparison.failures]


def percent(value: float) -> str:
    """A share with a decimal place."""
    return f"{100 * value:.1f} %"


def chance(value: float | None) -> str:
    """A p-value."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def accuracy(found: Mean) -> str:
    """A mean accuracy in per cent with its interval."""
    if found.value is None:
        return NONE
    interval = "" if found.low is None or found.high is None else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{100 * found.value:.1f}{interval} %"


def rounds(found: Waiting) -> str:
    """A median number of rounds with its interval."""
    return f"{_whole(found.median)} [{_whole(found.low)}, {_whole(found.high)}]"


def _row(comparison: Comparison, summary: Summary) -> list[str]:
    done = sum(run.finished for run in summary.runs)
    failed = f" ({len(summary.failures)} failed)" if summary.failures else ""
    reached = [] if comparison.target is None else [rounds(summary.rounds), _of(summary.rounds.reached, summary.runs)]
    psnr = [_decibels(summary.psnr.get(attack)) for attack in _attacks(comparison)]
    runs = f"{_of(done, summary.runs)}{failed}"
    return [summary.label, runs, accuracy(summary.final), accuracy(summary.best), *reached, *psnr]


def _attacks(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(attack for summary in comparison.summaries for attack in summary.psnr))


def _psnr(attack: str) -> str:
    return f"{attack}, PSNR in dB"


def _of(count: int, runs: Sequence[Outcome]) -> str:
    return f"{count} of {len(runs)}"


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:g}"


def _decibels(found: Mean | None) -> str:
    if found is None or found.value is None:
        return NONE
    interval = "" if found.low is None or found.high is None else f" [{found.low:.1f}, {found.high:.1f}]"
    return f"{found.value:.1f}{interval}"


def _difference(centre: float | None, low: float | None, high: float | None) -> str:
    if centre is None:
        return NONE
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * centre:+.1f}{interval} points"


def _rich(head: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(*map(escape, head), box=None, pad_edge=False)
    for row in body:
        table.add_row(*map(escape, row))
    return table


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays text in a Markdown table."""
    for letter in "\\|<>*`":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)

"""How the rounds that a selector saves depend on the accuracy asked for."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.compare.paired_rounds import saved
from experiments.compare.statistics import Wait, waiting
from experiments.compare.tables import NONE, rounds
from experiments.reproduce.mavericks_records import Record, wait

SHARES = (0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.98, 0.99)
"""Of the best accuracy of uniform selection."""

LEAD = """\
The same runs asked for other shares of the best accuracy of `uniform`: the median of the first round there, and
beside it the mean of rounds saved, as above. Looked at afterwards, and without tests."""


def targets_table(records: Sequence[Record], total: int) -> str:
    """A row a target, a column a selector.

    Args:
        records: finished runs of one layout, some of them of ``uniform``.
        total: rounds of a run.
    """
    selectors = list(dict.fromkeys(["uniform", *(record["selector"] for record in records)]))
    best = max(max(record["accuracies"]) for record in records if record["selector"] == "uniform")
    lines = [
        "| target | " + " | ".join(f"`{name}`" for name in selectors) + " |",
        "|" + " --- |" * (1 + len(selectors)),
    ]
    for share in SHARES:
        waits = {
            name: {r["seed"]: wait(r, share * best) for r in records if r["selector"] == name} for name in selectors
        }
        cells = [_cell(waits[name], waits["uniform"], total, reference=name == "uniform") for name in selectors]
        lines.append(f"| {100 * share * best:.1f} % ({100 * share:.0f} %) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(own: dict[int, Wait], uniform: dict[int, Wait], total: int, *, reference: bool) -> str:
    median = rounds(waiting(list(own.values()))).split(" [")[0]
    if reference:
        return median
    one = saved(own, uniform, total)
    if one.difference is None or one.share is None:
        return f"{median} ({NONE})"
    interval = "" if one.low is None or one.high is None else f" [{one.low:+.1f}, {one.high:+.1f}]"
    return f"{median} ({one.difference:+.1f}{interval}, {100 * one.share:+.0f} %)"

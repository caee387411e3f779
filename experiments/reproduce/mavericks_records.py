"""What a line of the Maverick study says of a run: its settings, and its accuracy by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.compare.statistics import Wait, first_at
from fedsim.errors import FedsimError

Record = dict[str, Any]


def accuracies(record: Record) -> dict[int, float]:
    """Test accuracy by evaluated round; lines without ``rounds`` are of runs evaluated after every one, from 0."""
    values = record["accuracies"]
    return dict(zip(record.get("rounds", range(len(values))), values, strict=True))


def wait(record: Record, target: float) -> Wait:
    """The first evaluated round of a run at the target."""
    return first_at(accuracies(record), target, record["last"])


def settings(record: Record) -> tuple[int, tuple[str, ...]]:
    """Rounds of a run, and the changes of all runs it was made with; lines that name none had none."""
    return record["total"], tuple(sorted(record.get("changes", [])))


def check_alike(layout: str, records: Sequence[Record]) -> None:
    """Refuse to compare runs of a layout that were made with different settings.

    Raises:
        FedsimError: names the settings and the remedy.
    """
    found = sorted({settings(record) for record in records if record["layout"] == layout})
    if len(found) > 1:
        named = "; ".join(f"{total} rounds with {' '.join(changes) or 'no changes'}" for total, changes in found)
        raise FedsimError(
            f"The runs of the layout {layout!r} have different settings: {named}. Runs of one layout are compared with "
            "one another: give the same --set as before, or other folders by --out and --runs."
        )

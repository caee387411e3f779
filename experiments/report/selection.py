"""The report on selection: who has which data, as a heat map of clients by classes, and what the selector was told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.records import Run, class_name, integer
from server.selection.needs import Price, prices

MOST_COLUMNS = 100
"""Clients drawn; of more, those with most images, and the rest evenly spaced."""

MOST_ROWS = 40
"""Classes drawn; a partition over more is not pictured."""

_OWNER = 0.25  # share of a class from which a cell is framed, if it is also five times an even share

_LEFT, _TOP, _ROW, _BARS = 110, 56, 18, 46
_STRONGEST = 0.92


@dataclass(frozen=True)
class Row:
    """A class."""

    name: str
    y: float


@dataclass(frozen=True)
class Cell:
    """The images that a client has of a class, and what share of the class they are, if that is known."""

    name: str
    count: int
    share: float | None
    owned: bool
    opacity: float
    y: float
    height: float


@dataclass(frozen=True)
class Column:
    """A client."""

    client: int
    total: int
    x: float
    width: float
    bar_top: float
    tick: bool
    cells: list[Cell]


@dataclass(frozen=True)
class HeatMap:
    """Clients by classes, in SVG units.

    Attributes:
        owners: a sentence for each class that is with one client, or with few of them.
        left_out: clients that are not drawn.
        fullest: images in the darkest cell.
        description: the picture in words.
    """

    width: float
    height: float
    left: float
    top: float
    rows: list[Row]
    columns: list[Column]
    owners: list[str]
    left_out: int
    fullest: int
    description: str


def privacy_price(run: Run) -> list[Price]:
    """What the selector had to be told."""
    needs = run.table("selector").get("needs")
    return [price for _, price in prices(needs if isinstance(needs, list) else [])]


def heat_map(run: Run) -> HeatMap | None:
    """The partition as a picture, or ``None`` if it is not known or has too many classes to be one."""
    counts = {
        client: [int(count) for count in row]
        for record in run.partition
        if (client := integer(record, "client")) is not None and isinstance(row := record.get("label_counts"), list)
    }
    classes = max((len(row) for row in counts.values()), default=0)
    if not 0 < classes <= MOST_ROWS:
        return None
    shown = _shown(counts)
    every = integer(run.table("data"), "clients") or len(counts)
    totals = [max(1, sum(row[label] for row in counts.values())) for label in range(classes)]
    complete = len(counts) == every  # of very many clients, some only are written down
    fullest = max(1, *(max(row) for row in counts.values()))
    most = max(1, *(sum(row) for row in counts.values()))
    step = min(20.0, max(9.0, 960 / len(shown)))
    names = [class_name(label, run.classes) if run.classes else str(label) for label in range(classes)]
    ticks = math.ceil(26 / step)
    columns = []
    for place, client in enumerate(shown):
        row = counts[client]
        cells = [
            Cell(
                name=names[label],
                count=count,
                share=count / totals[label] if complete else None,
                owned=complete and count / totals[label] >= max(_OWNER, 5 / every),
                # By the root: what is a fiftieth of the most must still be seen.
                opacity=round(_STRONGEST * math.sqrt(count / fullest), 3),
                y=_TOP + _ROW * label,
                height=_ROW - 1,
            )
            for label, count in enumerate(row)
        ]
        columns.append(
            Column(
                client=client,
                total=sum(row),
                x=round(_LEFT + step * place, 2),
                width=round(step - 1, 2),
                bar_top=round(_TOP - 4 - _BARS * sum(row) / most, 2),
                tick=place % ticks == 0,
                cells=cells,
            )
        )
    owners = _owners(counts, totals, names) if complete else []
    return HeatMap(
        width=round(_LEFT + step * len(shown) + 16, 1),
        height=_TOP + _ROW * classes + 24,
        left=_LEFT,
        top=_TOP,
        rows=[Row(name, _TOP + _ROW * (label + 0.5)) for label, name in enumerate(names)],
        columns=columns,
        owners=owners,
        left_out=every - len(shown),
        fullest=fullest,
        description=" ".join([f"Images of {classes} classes with {len(shown)} clients.", *owners]),
    )


def _shown(counts: dict[int, list[int]]) -> list[int]:
    """The clients to draw, ascending."""
    clients = sorted(counts)
    if len(clients) <= MOST_COLUMNS:
        return clients
    largest = sorted(clients, key=lambda client: (-sum(counts[client]), client))[: MOST_COLUMNS // 2]
    others = [client for client in clients if client not in set(largest)]
    wanted = MOST_COLUMNS - len(largest)
    return sorted(largest + [others[i * len(others) // wanted] for i in range(wanted)])


def _owners(counts: dict[int, list[int]], totals: Sequence[int], names: Sequence[str]) -> list[str]:
    """Which classes are with so few clients that these own them: at most a tenth of all have nine tenths of it."""
    told = []
    for label, name in enumerate(names):
        ranked = sorted(counts, key=lambda client: (-counts[client][label], client))
        few: list[int] = []
        for client in ranked[: max(1, len(counts) // 10)]:
            few.append(client)
            share = sum(counts[one][label] for one in few) / totals[label]
            if share >= 0.9 and len(counts) > 1:
                who = f"Client {few[0]} has" if len(few) == 1 else f"Clients {', '.join(map(str, sorted(few)))} have"
                told.append(f"{who} {100 * share:.0f}\N{NO-BREAK SPACE}% of the class {name}.")
                break
    return told

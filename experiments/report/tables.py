"""The report's tables: what the adversary knew, who the clients were, how the run was configured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any

from experiments.report.records import Run, integer, number
from experiments.run_folder import Record

MOST_CLIENTS = 60
"""Clients shown; of more, those selected most often."""

SEEN, GRANTED, PUBLIC, UNKNOWN = "seen", "granted", "public", "unknown"

_LISTED = 20  # items of a list in the configuration; the file has the rest
_STRONGEST = 0.62  # opacity of the fullest cell, at which dark and light text can both be read


@dataclass(frozen=True)
class Fact:
    """One thing that an adversary may know, and whether it did, an attack a column."""

    what: str
    detail: str
    status: list[str]


@dataclass(frozen=True)
class Cell:
    """The examples that a client has of one class."""

    count: int
    opacity: float


@dataclass(frozen=True)
class ClientRow:
    """One client over the whole run."""

    client: int
    examples: int | None
    selected: int
    selected_share: float
    probability: float | None
    value: float | None
    value_error: float | None
    victim: int
    failures: int
    cells: list[Cell]


@dataclass(frozen=True)
class Clients:
    """The clients' table.

    Attributes:
        rows: by number.
        classes: the heads of the cells' columns; empty if no client told its labels.
        cohort_rounds: rounds in which somebody was selected.
        selected: how many different clients were selected.
        total: how many clients there are, if that is known.
        valued: rounds in which values were found.
        method: how, and on what.
        failures: whether any client failed.
        reasons: why answers were not used, and how often, the most frequent first.
        wide: too many classes for numbers in the cells.
    """

    rows: list[ClientRow]
    classes: list[str]
    cohort_rounds: int
    selected: int
    total: int | None
    valued: int
    method: str
    failures: bool
    reasons: list[tuple[str, int]]
    wide: bool


def threat_model(run: Run) -> list[Fact]:
    """What the server saw, what it was granted, and what it did not know, for each attack."""
    attacks = run.attacks or [str(table.get("label") or table.get("name")) for table in run.tables("attacks")]
    if not attacks:
        return []
    everywhere = len(attacks)
    algorithm = run.table("training").get("algorithm")
    answer = "one gradient of a batch" if algorithm == "fedsgd" else "the model after local training"
    facts = [
        Fact("The network, its input shape, classes and normalisation", "part of the protocol", [PUBLIC] * everywhere),
        Fact("The orders to the clients", _orders(run.table("training")), [SEEN] * everywhere),
        Fact("The global weights of every round", "the server sends them", [SEEN] * everywhere),
        Fact(f"Each victim's answer: {answer}", "as received, nothing changed", [SEEN] * everywhere),
        Fact("The number of examples", "as the client claims it", [SEEN] * everywhere),
    ]
    granted = [_grants(run, attack) for attack in attacks]
    told = [GRANTED if "defences" in grants else UNKNOWN for grants in granted]
    facts += [
        Fact(f"Defence: {defence.get('name')}", _flat(defence, leave=("name",)), told)
        for defence in run.tables("defences")
    ]
    for grant, what in (("labels", "The victims' labels"), ("batch_order", "Which images a local step used")):
        status = [GRANTED if grant in grants else UNKNOWN for grants in granted]
        facts.append(Fact(what, "known only if the threat model grants it", status))
    others = sorted({grant for grants in granted for grant in grants} - {"labels", "batch_order", "defences"})
    drawn = {"noise": "The noise that a victim drew", "steps": "The steps of the schedule that a victim drew"}
    facts += [
        Fact(
            drawn.get(other, other.replace("_", " ")),
            "granted",
            [GRANTED if other in grants else UNKNOWN for grants in granted],
        )
        for other in others
    ]
    return [
        *facts,
        Fact(
            "The images, and all other random numbers of the clients",
            "the scores alone use them",
            [UNKNOWN] * everywhere,
        ),
    ]


def clients_table(run: Run) -> Clients | None:
    """Who was selected how often, who was a victim, and who has which classes."""
    by_client: dict[int, list[Record]] = {}
    for record in run.clients:
        client = integer(record, "client")
        if client is not None:
            by_client.setdefault(client, []).append(record)
    if not by_client:
        return None
    rounds = {record.get("round") for record in run.clients if record.get("selected", True)}
    counts = {client: _label_counts(records) for client, records in by_client.items()}
    width = max(len(row) for row in counts.values())
    cells = _cells(counts, width)
    rows = [_client(run, client, records, cells[client], len(rounds)) for client, records in by_client.items()]
    rows = sorted(rows, key=lambda row: (-row.selected, row.client))[:MOST_CLIENTS]
    return Clients(
        rows=sorted(rows, key=lambda row: row.client),
        classes=[run.classes[i] if i < len(run.classes) else str(i) for i in range(width)],
        cohort_rounds=len(rounds),
        selected=sum(any(r.get("selected", True) for r in records) for records in by_client.values()),
        total=integer(run.table("data"), "clients"),
        valued=len({r.get("round") for r in run.clients if number(r, "value") is not None}),
        method=_method(run.table("contribution"), integer(run.table("data"), "validation_size")),
        failures=any(row.failures for row in rows),
        reasons=Counter(str(r["failure"]) for r in run.clients if r.get("failure")).most_common(_LISTED),
        wide=width > 20,
    )


def configuration(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """The configuration, a table at a time, and the versions last."""
    top = {key: value for key, value in run.experiment.items() if not _is_table(value)}
    sections = [("experiment", _pairs(top))] if top else []
    versions = []
    for key, value in run.experiment.items():
        if key == "versions" and isinstance(value, dict):
            versions.append(("versions", _pairs(value)))
        elif isinstance(value, dict):
            sections.append((key, _pairs(value)))
        elif _is_table(value):
            sections += [(f"{key} {i}", _pairs(item)) for i, item in enumerate(value, start=1)]
    return [(name, pairs) for name, pairs in sections + versions if pairs]


def _grants(run: Run, attack: str) -> set[str]:
    """What an attack was granted, by its records or by the configuration."""
    told = [set(victim.grants) for victim in run.of(attack) if victim.grants is not None]
    if told:
        return set().union(*told)
    for table in run.tables("attacks"):
        grants = table.get("grants")
        if attack == (table.get("label") or table.get("name")) and isinstance(grants, list):
            return {str(grant) for grant in grants}
    return set()


def _orders(training: Mapping[str, Any]) -> str:
    names = ("algorithm", "batch_size", "local_epochs", "local_steps", "learning_rate", "momentum", "weight_decay")
    fedsgd = training.get("algorithm") == "fedsgd"
    told = [
        f"{name.replace('_', ' ')} {training[name]}"
        for name in names
        if training.get(name) not in (None, 0, 0.0) and not (fedsgd and name.startswith("local"))
    ]
    return ", ".join(told) or "the server's own"


def _label_counts(records: list[Record]) -> list[int]:
    for record in reversed(records):
        counts = record.get("label_counts")
        if isinstance(counts, list) and all(isinstance(count, int) for count in counts):
            return counts
    return []


def _cells(counts: dict[int, list[int]], width: int) -> dict[int, list[Cell]]:
    """A cell a class for each client, the darker the more examples."""
    fullest = max((count for row in counts.values() for count in row), default=0) or 1
    return {
        client: [Cell(n, round(_STRONGEST * n / fullest, 3)) for n in [*row, *[0] * (width - len(row))]]
        for client, row in counts.items()
    }


def _client(run: Run, client: int, records: list[Record], cells: list[Cell], rounds: int) -> ClientRow:
    selected = sum(bool(record.get("selected", True)) for record in records)
    chances = [chance for record in records if (chance := number(record, "probability")) is not None]
    return ClientRow(
        client=client,
        examples=integer(records[-1], "examples"),
        selected=selected,
        selected_share=round(selected / rounds, 3) if rounds else 0.0,
        probability=sum(chances) / len(chances) if chances else None,
        **_value(run, records),
        victim=sum(victim.client == client for victim in run.victims),
        failures=sum(bool(record.get("failure")) for record in records),
        cells=cells,
    )


def _value(run: Run, records: list[Record]) -> dict[str, float | None]:
    """The mean value of a client over the rounds it was appraised in; of one that is of the whole run, the last."""
    told = [record for record in records if number(record, "value") is not None]
    if run.table("contribution").get("name") == "one_round":
        told = told[-1:]
    if not told:
        return {"value": None, "value_error": None}
    errors = [number(record, "value_error") or 0.0 for record in told]
    return {
        "value": sum(number(record, "value") or 0.0 for record in told) / len(told),
        "value_error": hypot(*errors) / len(told) or None,
    }


def _method(contribution: Mapping[str, Any], images: int | None) -> str:
    metric = "accuracy" if contribution.get("metric") == "accuracy" else "loss"
    held = f"{images} images" if images else "images"
    return f"{contribution.get('name', 'unknown')}, by {metric} on {held} of the server's own"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _pairs(table: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            pairs += _pairs(value, f"{above}{key}.")
        elif isinstance(value, list):
            more = [f"and {len(value) - _LISTED} more"] if len(value) > _LISTED else []
            pairs.append((above + key, ", ".join([*(str(item) for item in value[:_LISTED]), *more]) or "none"))
        else:
            pairs.append((above + key, str(value).lower() if isinstance(value, bool) else str(value)))
    return pairs


def _flat(table: Mapping[str, Any], leave: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {value}" for key, value in _pairs(table) if key not in leave)

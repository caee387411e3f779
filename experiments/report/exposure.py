"""The exposure ledger: for each client of a run, how often it was chosen, what it was worth, what was learned of it.

It follows from the other files of the run folder alone, so that it is right after a resumed run and whenever an
attack has been added; ``exposure.jsonl`` holds it, and is written whenever the report is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report.records import Run, Victim, integer, number
from experiments.report.story import recovered
from experiments.run_folder import Record
from server.selection.distances import l1, normalised


def ledger(run: Run) -> list[Record]:
    """A record a client, by number: all whose data, selections or attacks the folder knows of.

    Fields:
        client, examples.
        distance: of its label distribution from that of all clients, as FedEMD measures it by default: the mean over
            classes of the absolute difference, both scaled to a mean of 1.
        chosen, failures: rounds it was in the cohort, and those of them in which its answer was not used.
        appraised, value_sum, value_mean: rounds in which its update was appraised, and what came of it.
        attacks: reconstructions of its data that were tried, failed ones included.
        psnr: of the best of them, in decibels, the mean over its images; ``round`` and ``attack`` say which it was.
        image_psnr: of the best single image in any.
        baseline_psnr, mean_colour_psnr: the best that a uniform grey, and each image's own mean colour, score over the
            same attacks: who is attacked more often has more chances of a high best score with nothing learned.
        recovered: reconstructions at ``RECOGNISABLE`` or above that are whole and better than the grey.
        label_accuracy: the best share of its labels found.
        baseline_label_accuracy: the best share that a guess of every class equally often finds over the same attacks.
    """
    counts = {
        client: [int(count) for count in row]
        for record in (*run.clients, *run.partition)
        if (client := integer(record, "client")) is not None and isinstance(row := record.get("label_counts"), list)
    }
    whole = _whole(run, counts)
    rounds: dict[int, list[Record]] = {}
    for record in run.clients:
        client = integer(record, "client")
        if client is not None:
            rounds.setdefault(client, []).append(record)
    victims: dict[int, list[Victim]] = {}
    for victim in run.victims:
        victims.setdefault(victim.client, []).append(victim)
    return [
        {
            "client": client,
            "examples": sum(counts[client]) if client in counts else None,
            "distance": None if whole is None or client not in counts else distance(counts[client], whole),
            **_chosen(rounds.get(client, []), whole_run=run.table("contribution").get("name") == "one_round"),
            **_learned(victims.get(client, []), len(run.classes) or max(map(len, counts.values()), default=0)),
        }
        for client in sorted(counts.keys() | rounds.keys() | victims.keys())
    ]


def distance(counts: Sequence[int], whole: Sequence[int]) -> float | None:
    """How far a client's label distribution is from that of all; ``None`` where there is nothing to compare.

    >>> distance([10, 0], [10, 10])
    1.0
    """
    if len(counts) != len(whole) or not sum(counts) or not sum(whole):
        return None
    client, everybody = (normalised(np.array(each, dtype=np.float64)) for each in (counts, whole))
    return float(l1(client[None], everybody)[0])


def guessed_labels(labels: Sequence[object], classes: int) -> float | None:
    """The share of labels that a guess of every class equally often finds, as ``label_accuracy`` counts it.

    >>> guessed_labels(["cat"], 10), guessed_labels(["cat", "dog"], 2)
    (0.1, 1.0)
    """
    if not labels or not classes:
        return None
    each = len(labels) / classes
    return sum(min(count, each) for count in Counter(labels).values()) / len(labels)


def _whole(run: Run, counts: dict[int, list[int]]) -> list[int] | None:
    """Label counts of all clients together, where they are known."""
    told = run.table("data_set").get("label_counts")
    if isinstance(told, list):
        return [int(count) for count in told]
    complete = counts and len(counts) == integer(run.table("data"), "clients")
    return np.sum(list(counts.values()), axis=0).tolist() if complete else None


def _chosen(records: Sequence[Record], *, whole_run: bool) -> dict[str, Any]:
    values = [value for record in records if (value := number(record, "value")) is not None]
    total = values[-1] if whole_run and values else sum(values)
    return {
        "chosen": sum(bool(record.get("selected", True)) for record in records),
        "failures": sum(bool(record.get("failure")) for record in records),
        "appraised": len(values),
        "value_sum": total if values else None,
        "value_mean": None if not values else total if whole_run else total / len(values),
    }


def _learned(victims: Sequence[Victim], classes: int) -> dict[str, Any]:
    best = max(victims, key=lambda victim: victim.counted, default=None)
    each = [image for victim in victims for image in victim.psnr_each if image is not None]
    return {
        "attacks": len(victims),
        "psnr": best.counted if best else None,
        "round": best.round if best else None,
        "attack": best.attack if best else None,
        "image_psnr": max(each, default=best.counted if best else None),
        "baseline_psnr": _most([victim.baseline_psnr for victim in victims]),
        "mean_colour_psnr": _most([victim.mean_colour_psnr for victim in victims]),
        "recovered": sum(map(recovered, victims)),
        "label_accuracy": _most([victim.label_accuracy for victim in victims]),
        "baseline_label_accuracy": _most([guessed_labels(victim.labels_true, classes) for victim in victims]),
    }


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)

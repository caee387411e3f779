"""What selectors may ask to be told, in words: their price in privacy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.selection.selector import Need


@dataclass(frozen=True)
class Price:
    """One thing that is told.

    Attributes:
        what: it is.
        of_whom: which clients tell it, and when.
        discloses: what that gives away.
    """

    what: str
    of_whom: str
    discloses: str


PRICES: dict[Need, Price] = {
    "examples": Price(
        "number of examples", "every client, once", "how much data a client has; FedAvg tells it of the cohort anyway"
    ),
    "label_counts": Price(
        "histogram of labels",
        "every client, once",
        "which classes a client has and how many of each: what label inference attacks are after",
    ),
    "losses": Price(
        "mean training loss", "the cohort, every round", "how well the model fits a client's data, one number"
    ),
    "square_losses": Price(
        "mean squared loss per example",
        "the cohort, every round",
        "one number more on how the losses of a client's examples are spread",
    ),
    "candidate_losses": Price(
        "loss of the current model",
        "clients drawn as candidates, every round",
        "how well the model fits the data even of clients that do not train",
    ),
    "accuracies": Price(
        "accuracy of the current model",
        "every client, every few rounds",
        "how well the model fits the data of all clients",
    ),
    "durations": Price(
        "seconds a round takes", "every client", "the client's machine and network, and how much data it has"
    ),
    "updates": Price(
        "each client's own update, in the clear",
        "the cohort, every round",
        "what gradient inversion works on; secure aggregation is ruled out",
    ),
    "validation": Price("a labelled validation set", "the server itself", "nothing of the clients"),
    "values": Price(
        "value of each client's contribution",
        "the cohort, computed by the server every round",
        "whose data the model lacks, or whose are of no use",
    ),
}
"""What each need means."""


def prices(needs: Iterable[str]) -> list[tuple[str, Price]]:
    """The needs that are known, in the order of ``PRICES``, each with its price."""
    asked = set(needs)
    return [(need, price) for need, price in PRICES.items() if need in asked]

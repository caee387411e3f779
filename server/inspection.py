"""What comes back from clients, looked at before it is aggregated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.arrays import Values, values, vector_of
from fedsim.protocol import TrainingPlan
from server.wrapping import client_of, records

NUMBERS = "fiu"
"""Kinds of types that can be averaged with each other: a mean of whole numbers may come back as floats."""


class Inspector:
    """Sorts replies into those that can be aggregated and those that cannot, with the reason.

    Args:
        grid: to ask clients for their profiles.
        config: the training plan that was sent, if claims of examples are to be checked: no more than
            the batch ordered, and no more than the client's own profile says. A node that answers no
            queries is not checked.
    """

    def __init__(self, grid: Grid, config: Mapping[str, Any] | None = None) -> None:
        self._grid = grid
        self._plan = TrainingPlan.from_config(config) if config is not None else None
        self._most: dict[int, int] = {}

    def sort(
        self, messages: list[Message], replies: list[Message], arrays: ArrayRecord
    ) -> tuple[list[Message], dict[int, str]]:
        """The good replies, in the order given, and why each other client's is not used."""
        nodes = [message.metadata.dst_node_id for message in messages]
        if self._plan is not None:
            self._ask(nodes)
        good, failures = [], {}
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite gets a reason, not a warning
            for reply in replies:
                reason = _fault(reply, arrays) or self._lie(reply)
                if reason is None:
                    good.append(reply)
                else:
                    failures[client_of(reply)] = reason
        answered = {reply.metadata.src_node_id for reply in replies}
        failures |= {node: "no answer in time" for node in nodes if node not in answered}
        return good, failures

    def _ask(self, nodes: list[int]) -> None:
        """Remember how many examples a client can have used in one update, when it is first met."""
        plan = cast("TrainingPlan", self._plan)
        if plan.algorithm == "fedsgd" and plan.batch_size is not None:
            self._most |= dict.fromkeys(nodes, plan.batch_size)
        strangers = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes if node not in self._most]
        for reply in self._grid.send_and_receive(strangers, timeout=60) if strangers else []:
            record = reply.content.config_records.get("profile") if reply.has_content() else None
            if record is not None and "num-examples" in record:
                self._most[reply.metadata.src_node_id] = int(cast("int", record["num-examples"]))

    def _lie(self, reply: Message) -> str | None:
        claimed, most = metric(reply, "num-examples"), self._most.get(reply.metadata.src_node_id)
        if claimed is None or most is None or claimed <= most:
            return None
        return f"claims {claimed:g} examples, but can have used {most} at most"


def metric(reply: Message, key: str) -> float | None:
    """A number among the reply's metrics, or ``None``."""
    for record in records(reply, MetricRecord):
        if key in record:
            return float(cast("float", record[key]))
    return None


def _fault(reply: Message, arrays: ArrayRecord) -> str | None:
    """Why a reply cannot be aggregated, or ``None``."""
    if reply.has_error():
        return reply.error.reason or f"error {reply.error.code}"
    sent = records(reply, ArrayRecord)
    if len(sent) != 1:
        return f"sent {len(sent)} array records instead of 1"
    whole, asked = vector_of(sent[0]), vector_of(arrays)
    alike = (
        whole is not None and asked is not None and whole[1] == asked[1] and whole[0].dtype.kind == asked[0].dtype.kind
    )
    if not alike and set(sent[0]) != set(arrays):
        return f"sent other arrays than it got: {sorted(set(sent[0]) ^ set(arrays))}"
    if (fault := _claim_fault(reply)) or (alike and whole is not None and _finite(whole[0])):
        return fault
    return next((fault for name, array in sent[0].items() if (fault := _array_fault(name, array, arrays))), None)


def _claim_fault(reply: Message) -> str | None:
    for key in ("num-examples", "train-loss"):
        if any(isinstance(record.get(key), list) for record in records(reply, MetricRecord)):
            return f"sent a list of numbers as {key}"
    examples = metric(reply, "num-examples")
    return None if examples is None or 0 < examples < float("inf") else f"claims {examples:g} examples"


def _array_fault(name: str, array: Array, arrays: ArrayRecord) -> str | None:
    if tuple(array.shape) != tuple(arrays[name].shape):
        return f"{name} has shape {list(array.shape)} instead of {list(arrays[name].shape)}"
    found, kind = values(array), np.dtype(arrays[name].dtype).kind
    if found.dtype.kind != kind and not (found.dtype.kind in NUMBERS and kind in NUMBERS):
        return f"{name} has type {found.dtype} instead of {arrays[name].dtype}"
    if not _finite(found):
        return f"{name} holds NaN or infinite values"
    return None


def _finite(found: Values) -> bool:
    """Whether no number is NaN or infinite. One would show in the sum, which is quicker to have."""
    return found.dtype.kind not in "fc" or bool(np.isfinite(found.sum())) or bool(np.isfinite(found).all())

"""What the server asks clients beyond training: who they are, and how the current global model does on their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import FedsimError
from fedsim.protocol import Profile
from server.selection.selector import Answer
from server.wrapping import client_of, records


def profiles(grid: Grid, timeout: float | None = 600) -> tuple[dict[int, int], list[Profile]]:
    """Ask every node for its profile.

    Returns:
        The node id of each client, and the profiles in the order of clients.

    Raises:
        FedsimError: a node does not answer, or two say they are the same client.
    """
    nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    found: dict[int, Profile] = {}
    ids: dict[int, int] = {}
    for reply in replies:
        if reply.has_error():
            raise FedsimError(f"Node {reply.metadata.src_node_id} sent no profile: {reply.error.reason}")
        record = reply.content.config_records["profile"]
        client = int(cast("int", record["partition-id"]))
        if client in found:
            raise FedsimError(f"Two nodes say they are client {client}. Give each node a partition-id of its own.")
        counts = cast("list[int] | None", record.get("label-counts"))
        found[client] = Profile(client, int(cast("int", record["num-examples"])), tuple(counts) if counts else None)
        ids[client] = reply.metadata.src_node_id
    if len(found) < len(nodes):
        raise FedsimError(f"Only {len(found)} of {len(nodes)} nodes sent a profile within {timeout} seconds.")
    return ids, [found[client] for client in sorted(found)]


def answers(
    grid: Grid, arrays: ArrayRecord, nodes: Sequence[int], server_round: int, timeout: float | None = 600
) -> dict[int, Answer]:
    """Loss and accuracy of a model on the data of some nodes, by client; of those that answer well.

    Args:
        grid: where the nodes are.
        arrays: the model's.
        nodes: their ids.
        server_round: for the message's configuration.
        timeout: seconds to wait for all.
    """
    config = ConfigRecord({"server-round": server_round})
    messages = [Message(RecordDict({"arrays": arrays, "config": config}), node, MessageType.EVALUATE) for node in nodes]
    found: dict[int, Answer] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        if not reply.has_content():
            continue
        metrics: Mapping[str, object] = next(iter(records(reply, MetricRecord)), MetricRecord())
        if "eval-loss" in metrics:
            loss, accuracy = (float(cast("float", metrics.get(key, 0.0))) for key in ("eval-loss", "eval-accuracy"))
            found[client_of(reply)] = Answer(loss, accuracy)
    return found

"""The honest-but-curious server: it follows the protocol to the letter and keeps what passes by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.arrays import Decoder, from_record
from fedsim.protocol import Kind, Observation, TrainingPlan
from server.wrapping import Wrapped, client_of


class HonestButCurious(Wrapped):
    """Overhear every training update on its way through any Flower ``Strategy``.

    The messages and replies go on as they came: the global model of a run with it is, bit for bit, that
    of a run without.

    Args:
        strategy: the strategy that does the work.
        observer: called with each client's ``Observation``, in the order the strategy got the replies,
            before the round is aggregated; ``Transcript.append`` is one.
        kind: what clients return where their replies do not say; fedsim's own clients do.
        weighted_by_key: the metric that holds the number of examples.
    """

    def __init__(
        self,
        strategy: Strategy,
        observer: Callable[[Observation], None],
        *,
        kind: Kind = "model",
        weighted_by_key: str = "num-examples",
    ) -> None:
        super().__init__(strategy)
        self._observer = observer
        self._kind = kind
        self._weighted_by_key = weighted_by_key
        self._sent: dict[int, RecordDict] = {}
        self._decode = Decoder()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._sent = {message.metadata.dst_node_id: message.content for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = list(replies)
        for reply in received:
            if reply.has_content() and reply.metadata.src_node_id in self._sent:
                self._observer(self._observe(server_round, reply))
        self._sent = {}
        return super().aggregate_train(server_round, received)

    def _observe(self, server_round: int, reply: Message) -> Observation:
        sent = self._sent[reply.metadata.src_node_id]
        return observation(server_round, sent, reply, self._decode, self._kind, self._weighted_by_key)


def observation(
    server_round: int,
    sent: RecordDict,
    reply: Message,
    decode: Decoder,
    kind: Kind = "model",
    weighted_by_key: str = "num-examples",
) -> Observation:
    """What the server sees of one client in one round.

    Args:
        server_round: number of the round.
        sent: the content of the message to the client.
        reply: the client's, with content.
        decode: keeps the arrays sent, which are the same for the whole cohort.
        kind: what the client returns where its reply does not say.
        weighted_by_key: the metric that holds the number of examples.
    """
    config = next(iter(sent.config_records.values()), ConfigRecord())
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    said = reply.content.config_records.get("client", ConfigRecord())
    return Observation(
        round=server_round,
        client=client_of(reply),
        sent=decode(next(iter(sent.array_records.values()))),
        received=from_record(next(iter(reply.content.array_records.values()))),
        kind=cast("Kind", said.get("kind", kind)),
        examples=int(cast("float", metrics.get(weighted_by_key, 0))),
        plan=TrainingPlan.from_config(config) if "algorithm" in config else None,
    )

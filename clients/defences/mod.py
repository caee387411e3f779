"""A chain of defences as a Flower client mod, for fedsim's clients and for those of any other Flower app."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from clients.defences.defence import Defence, Memory, Site, TrainingDefence, Update, UpdateDefence
from clients.gradients import during_training
from fedsim.arrays import from_record, to_record
from fedsim.errors import FedsimError, invalid
from fedsim.protocol import ROUND_KEY, Kind


def defence_mod(chain: Sequence[Defence], seed: int, *, buffers: Collection[str] = ()) -> Mod:
    """A client mod that defends what leaves a client after training.

    The update is what training changed of the arrays sent (or, of a reply that says ``kind = "gradient"`` in a
    record ``client``, the gradient itself). The defences are applied to it in the order given, and the arrays of
    the reply are those sent plus the defended update. A defence inside training is in force while the app trains,
    wherever it stands in the chain. Other messages than those to train pass by.

    Args:
        chain: the defences; one at most works inside training.
        seed: of all random draws. Clients of one federation share it, and tell themselves apart by ``partition-id``
            in their node's configuration, or else by the node's id.
        buffers: names of the arrays that are not trained, such as batch-norm statistics; most defences leave
            them as they are. Arrays of whole numbers are left alone in any case.

    Raises:
        FedsimError: two of the defences work inside training. While it runs: a message to train names no round or
            holds no arrays.
    """
    inside = [position for position, defence in enumerate(chain) if isinstance(defence, TrainingDefence)]
    if len(inside) > 1:
        names = [type(chain[position]).__name__ for position in inside]
        raise invalid("defences", names, "each says how a step's gradient comes about", "Keep one of them")
    untrained = frozenset(buffers)

    def defend(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not message.metadata.message_type.startswith(MessageType.TRAIN):
            return call_next(message, context)
        where = _Place(seed, _client(context), _round(message), context.state)
        with _inside(chain, inside, where):
            reply = call_next(message, context)
        if reply.has_error():
            return reply
        for key, record in list(reply.content.items()):
            if isinstance(record, ArrayRecord):
                arrays = _defended(chain, where, _sent(message, key), from_record(record), _kind(reply), untrained)
                reply.content[key] = to_record(arrays)
        for position in inside:
            defence = cast("TrainingDefence", chain[position])
            _add_metrics(reply.content, defence.report(where.site(position, _kind(reply))))
        return reply

    return defend


class _Place:
    """Where and when one message is answered."""

    def __init__(self, seed: int, client: int, round: int, state: RecordDict) -> None:
        self._seed, self._client, self._round, self._state = seed, client, round, state

    def site(self, position: int, kind: Kind) -> Site:
        memory = Memory(self._state, f"defence-{position}")
        return Site(self._seed, self._client, self._round, position, kind, memory)


def _inside(chain: Sequence[Defence], inside: Sequence[int], where: _Place) -> AbstractContextManager[None]:
    if not inside:
        return nullcontext()
    defence = cast("TrainingDefence", chain[inside[0]])
    return during_training(defence.step(where.site(inside[0], "gradient")))


def _defended(
    chain: Sequence[Defence],
    where: _Place,
    sent: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    kind: Kind,
    buffers: frozenset[str],
) -> dict[str, Tensor]:
    """The arrays to be sent; one whose update no defence touched is the one received, bit for bit."""
    values = {name for name in received if kind == "gradient" and name not in buffers}
    before: Update = {
        name: array if name in values else array - sent[name]
        for name, array in received.items()
        if array.is_floating_point()
    }
    after = dict(before)
    for position, defence in enumerate(chain):
        if isinstance(defence, UpdateDefence):
            given = {name: u for name, u in after.items() if defence.buffers or name not in buffers}
            after |= defence.defend(given, where.site(position, kind))
    changed = {name: u for name, u in after.items() if u is not before[name]}
    return dict(received) | {name: u if name in values else sent[name] + u for name, u in changed.items()}


def _sent(message: Message, key: str) -> dict[str, Tensor]:
    """The arrays of the message under the reply's key, or else those it has."""
    found = {name: record for name, record in message.content.items() if isinstance(record, ArrayRecord)}
    if not found:
        raise FedsimError("The message to train holds no arrays. Defences need the global model it began at.")
    return from_record(found.get(key) or next(iter(found.values())))


def _round(message: Message) -> int:
    for record in message.content.values():
        if isinstance(record, ConfigRecord) and ROUND_KEY in record:
            return int(cast("int", record[ROUND_KEY]))
    raise FedsimError(
        f"The message to train names no round, on which the defences' random numbers depend. Send {ROUND_KEY!r} in a "
        "ConfigRecord, as Flower's strategies do."
    )


def _client(context: Context) -> int:
    return int(context.node_config.get("partition-id", context.node_id))


def _kind(reply: Message) -> Kind:
    said = reply.content.get("client")
    return "gradient" if isinstance(said, ConfigRecord) and said.get("kind") == "gradient" else "model"


def _add_metrics(content: RecordDict, numbers: Mapping[str, float]) -> None:
    record = next((record for record in content.values() if isinstance(record, MetricRecord)), None)
    if record is None:
        record = content["metrics"] = MetricRecord()
    for key, value in numbers.items():
        record[key] = value

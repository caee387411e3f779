"""Faults on purpose: clients that drop out, dawdle, crash or send nonsense, as a Flower client mod.

For experiments on what a federation bears. Who fails in which round depends on the seed alone.
"""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.constant import ErrorCode
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim import seeding
from fedsim.protocol import ROUND_KEY


class InjectedCrashError(RuntimeError):
    """What an injected crash raises."""


Share = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """Shares of clients that fail in a round, each in one way at most; the ``[faults]`` table.

    Attributes:
        dropout: does not answer.
        straggle: answers ``straggle_seconds`` late.
        crash: raises an exception.
        nan: sends NaN in the first array.
        infinite: sends an infinite value in the first array.
        shape: sends the first array with a row too many.
        missing: leaves the last array out.
        lie: claims ``lie_factor`` times its number of examples.
        no_examples: claims to have used none.
        straggle_seconds: how late.
        lie_factor: how much more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dropout: Share = 0.0
    straggle: Share = 0.0
    crash: Share = 0.0
    nan: Share = 0.0
    infinite: Share = 0.0
    shape: Share = 0.0
    missing: Share = 0.0
    lie: Share = 0.0
    no_examples: Share = 0.0
    straggle_seconds: float = Field(1.0, ge=0)
    lie_factor: float = Field(1_000.0, gt=1)

    @model_validator(mode="after")
    def _once_at_most(self) -> Faults:
        if sum(self.shares().values()) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(self.shares().values()):g}, but a client fails once at most")
        return self

    def shares(self) -> dict[str, float]:
        """The share of clients that fails in each way."""
        ways = [way for way in type(self).model_fields if way not in ("straggle_seconds", "lie_factor")]
        return {way: getattr(self, way) for way in ways}

    def of(self, seed: int, client: int, round: int) -> str | None:
        """The way a client fails in a round, or ``None``."""
        chance = float(seeding.numpy_generator(seed, "client", client, "round", round, "fault").random())
        for way, share in self.shares().items():
            if chance < share:
                return way
            chance -= share
        return None


def faults_mod(faults: Faults, seed: int) -> Mod:
    """A client mod that injects the faults into training; it goes outermost, around all other mods."""

    def inject(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        client = int(context.node_config["partition-id"])
        round = int(message.content.config_records["config"][ROUND_KEY])  # type: ignore[arg-type]
        way = faults.of(seed, client, round)
        if way == "dropout":
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "dropped out (injected)"), reply_to=message)
        if way == "crash":
            raise InjectedCrashError("crashed (injected)")
        if way == "straggle":
            time.sleep(faults.straggle_seconds)
        reply = call_next(message, context)
        if way is not None:
            _spoil(reply, way, faults)
        return reply

    return inject


def _spoil(reply: Message, way: str, faults: Faults) -> None:
    record = next(iter(reply.content.array_records.values()))
    metrics = next(iter(reply.content.metric_records.values()))
    name = next(iter(record))
    if way in ("nan", "infinite"):
        values = record[name].numpy().copy()
        values.flat[0] = np.nan if way == "nan" else np.inf
        record[name] = Array(values)
    elif way == "shape":
        values = record[name].numpy()
        record[name] = Array(np.concatenate([values, values[:1]]))
    elif way == "missing":
        _leave_out(record, list(record)[-1])
    elif way == "lie":
        metrics["num-examples"] = int(metrics["num-examples"] * faults.lie_factor)  # type: ignore[operator]
    elif way == "no_examples":
        metrics["num-examples"] = 0


def _leave_out(record: ArrayRecord, name: str) -> None:
    del record[name]

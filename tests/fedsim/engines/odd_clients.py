"""Clients that count, raise, sleep or kill the process they run in, as the message tells them."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.errors import FedsimError


def make_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        order = message.content.config_records["config"]
        number = int(context.node_config["partition-id"])
        behave(order if order.get("client", number) == number else ConfigRecord(), context)
        weights = message.content.array_records["arrays"].to_numpy_ndarrays()
        counter = context.state.metric_records.get("counter", MetricRecord({"calls": 0}))
        context.state["counter"] = MetricRecord({"calls": counter["calls"] + 1})  # type: ignore[operator]
        content = RecordDict(
            {
                "arrays": ArrayRecord([w + number for w in weights]),
                "metrics": MetricRecord(
                    {"calls": context.state.metric_records["counter"]["calls"], "pid": os.getpid()}
                ),
            }
        )
        return Message(content, reply_to=message)

    return app


def behave(order: ConfigRecord, context: Context) -> None:
    match order.get("do"):
        case "raise":
            context.state["counter"] = MetricRecord({"calls": 100})
            raise ValueError("I will not")
        case "raise for users":
            raise FedsimError("batch_size = 9: too large. Use less.")
        case "sleep":
            time.sleep(60)
        case "keep much":
            context.state["kept"] = ArrayRecord([np.zeros(1_000_000, dtype=np.float32)])
        case "nap":
            time.sleep(0.2)
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash once":
            marker = Path(str(order["marker"]))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def make_nothing() -> ClientApp:
    raise FedsimError("data 'secret': it is not on this node. Fetch it there.")
